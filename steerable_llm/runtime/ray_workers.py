"""Copies of a model on the machines of a Ray cluster, which share work on much data (Ray Data)."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from steerable_llm.errors import InvalidInputError, SteerableError, from_extra
from steerable_llm.runtime.hooked_model import HookedModel

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class RayWorkers:
    """Processes that each load a model and work on parts of the data, on a cluster of Ray.

    The cluster is the one that `ray.init()` was told, or that the environment variable
    `RAY_ADDRESS` names; else one that is started on this machine. Every machine must be able to
    load the model in the way that it was loaded here.

    Attributes:
        number: How many of them.
        part: Pairs that are read together, where a method reads pairs. It takes part in the last
            digits of a vector, and `number` does not.
        resources: What Ray reserves for each, by the names of Ray Data's `map_batches`, such as
            `{"num_gpus": 1}`.

    Raises:
        InvalidInputError: There are none, or their parts are empty.
    """

    number: int
    part: int = 64
    resources: Mapping[str, Any] = field(default_factory=lambda: {"num_cpus": 1})

    def __post_init__(self) -> None:
        """Refuse what would only wait for ever."""
        for name in ("number", "part"):
            if getattr(self, name) < 1:
                raise InvalidInputError(
                    f"{name} of workers is {getattr(self, name)}: give 1 or more"
                )

    def map(
        self,
        llm: HookedModel,
        work: Callable[[HookedModel, T], R],
        parts: Sequence[T],
        advance: Callable[[T], object] = lambda _: None,
    ) -> list[R]:
        """Do the same work on all parts.

        Args:
            llm: The model, of which each worker loads a copy.
            work: What is done; it, the parts and what it returns must be such as pickle takes.
            parts: What it is done to.
            advance: Told of each part that is done, in whichever order.

        Returns:
            What was made of each part, in order.

        Raises:
            SteerableError: What `work` raised on one of them.
            InvalidInputError: The model cannot be loaded again.
            ModelMismatchError: A worker has loaded another model.
            MissingExtraError: Ray is not installed.
        """
        with from_extra("ray", "workers need a package that is not installed"):
            import ray
            import ray.data
        origin = getattr(llm, "origin", None)
        if origin is None:
            raise InvalidInputError(
                "workers must load the model again, and this one was made from a loaded model: "
                "load it with from_pretrained, or leave workers out"
            )
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        task = pickle.dumps((origin, llm.fingerprint, work))
        rows = [{"place": i, "part": pickle.dumps(part)} for i, part in enumerate(parts)]
        made = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map_batches(
            _Worker,
            fn_constructor_args=(task,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(self.number, max(1, len(rows)))),
            **self.resources,
        )
        found: dict[int, R] = {}
        for row in made.iter_rows():
            outcome = pickle.loads(row["made"])
            if isinstance(outcome, SteerableError):
                raise outcome
            place = int(row["place"])
            found[place] = outcome
            advance(parts[place])
        return [found[place] for place in range(len(parts))]


class _Worker:
    """What Ray Data makes an actor of."""

    def __init__(self, task: bytes) -> None:
        origin, fingerprint, self._work = pickle.loads(task)
        self._llm: HookedModel = origin.open()
        self._wrong = self._llm.fingerprint.differences(fingerprint)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        made = [pickle.dumps(self._made(part)) for part in batch["part"]]
        return {"place": batch["place"], "made": made}

    def _made(self, part: bytes) -> Any:
        if self._wrong:
            from steerable_llm.errors import ModelMismatchError

            return ModelMismatchError(
                f"a worker has loaded another model ({', '.join(self._wrong)} differ): give all "
                "machines the same files, or the revision"
            )
        try:
            return self._work(self._llm, pickle.loads(part))
        except SteerableError as error:
            return error.with_traceback(None)


def serially(
    llm: HookedModel,
    work: Callable[[HookedModel, T], R],
    parts: Sequence[T],
    advance: Callable[[T], object],
) -> list[R]:
    """Do the same without workers, with the model at hand."""
    made = []
    for part in parts:
        made.append(work(llm, part))
        advance(part)
    return made
