"""What the tests of the adapters share: a tiny model under a policy, and readers of its record."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.policy.policy import Policy
from steerable_llm.vector.vector import SteeringVector

QUESTION = "When does the shop in Lyon open?"
TOKENS = 12


def random_vector(llm: SteerableHFLLM, name: str, seed: int) -> SteeringVector:
    source = torch.Generator().manual_seed(seed)
    width, depth = llm.fingerprint.hidden_size, llm.fingerprint.num_layers
    return SteeringVector(
        name=name,
        directions={i: torch.randn(width, generator=source) for i in range(depth)},
        scales=dict.fromkeys(range(depth), 5.0),
        fingerprint=llm.fingerprint,
    )


def under_three_steps(tiny_llm: SteerableHFLLM, default: str = "plain") -> SteerableHFLLM:
    """The tiny model under a policy whose three steps steer in three ways."""
    vectors = {name: random_vector(tiny_llm, name, i) for i, name in enumerate("ab")}
    policy = Policy.from_dict(
        {
            "default_step": default,
            "steps": {
                "plain": {},
                "answer": {"vectors": [{"name": "a", "strength": 0.8}]},
                "reply": {"vectors": [{"name": "b", "strength": -0.8, "layers": [1]}]},
            },
        },
        vectors,
    )
    return SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, policy=policy, model_id="tiny")


def steered_by(message: Any) -> list[str]:
    return [applied["name"] for applied in message.response_metadata["steering"]]


def whole(chunks: list[Any]) -> Any:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


async def drain(stream: Any) -> None:
    async for _ in stream:
        pass


@contextmanager
def counted_passes(llm: SteerableHFLLM) -> Iterator[list[int]]:
    """The rows of each pass through a model."""
    rows: list[int] = []
    embeddings = llm.model.get_input_embeddings()
    hook = embeddings.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    try:
        yield rows
    finally:
        hook.remove()


class RecordingLLM(SteerableHFLLM):
    """The real engine, which also writes down each answer, however it was asked for."""

    def __init__(self, engine: SteerableHFLLM, policy: Policy, **options: Any) -> None:
        super().__init__(engine.model, engine.tokenizer, policy=policy, model_id="tiny", **options)
        self.steps: list[str | None] = []
        self.made = 0
        self.closed = threading.Event()

    def stream(self, *args: Any, **options: Any) -> Iterator[Any]:
        self.closed.clear()
        try:
            for chunk in super().stream(*args, **options):
                self.made += 1
                if chunk.final:
                    self.steps.append(chunk.final.step)
                yield chunk
        finally:
            self.closed.set()

    def submit(self, *args: Any, **options: Any) -> Any:
        self.closed.clear()
        pending = super().submit(*args, **options)
        # Told before whoever waits for it, since it listens first.
        pending._listen(lambda chunk: self._note(pending.future, chunk))
        return pending

    def _note(self, future: Any, chunk: Any) -> None:
        if chunk is not None:
            self.made += 1
            return
        if not future.cancelled() and future.exception() is None:
            self.steps.append(future.result().step)
        self.closed.set()


async def last(stream: Any) -> Any:
    return [response async for response in stream][-1]
