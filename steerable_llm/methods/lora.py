"""LoRA fine-tuning on the same pairs (Hu et al. 2022, arXiv:2106.09685), the trained baseline.

Two losses, both over log-probabilities summed over an answer's tokens, end of turn included::

    sft   - log P(g | p)                                              per answer token
    dpo   - log sigmoid(beta [(log P(g|p) - log P0(g|p)) - (log P(b|p) - log P0(b|p))])

with P0 the model without the LoRA (Rafailov et al. 2023, arXiv:2305.18290). Rank 16, alpha 32
and learning rate 5e-6 are those of the GrAInS paper; small models need a larger rate.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from steerable_llm.chat.vision import ReadPrompt
from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.methods.states import read_prompt
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.runtime.blocks import find_decoder
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.lora import Lora, lora_layers
from steerable_llm.runtime.merged_lora import require_peft
from steerable_llm.runtime.scores import Scored, answer_log_probs
from steerable_llm.vector.file import library_version
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.seen import hashes_of, kept
from steerable_llm.vector.steering import Steering

Answered = tuple[ReadPrompt, list[int]]
"""A prompt and the token ids of an answer to it."""


class LoraSettings(BaseModel, frozen=True, extra="forbid"):
    """Settings of LoRA.

    Attributes:
        objective: `sft` on the good answers, or `dpo` on good against bad.
        rank: r.
        alpha: The update is scaled by alpha / r.
        learning_rate: Of AdamW, without decay.
        epochs: Passes over the pairs.
        batch_size: Pairs per step.
        beta: Of DPO.
        targets: Names of the layers to adapt; "all-linear" is all but the output head.
        seed: Of the first weights and of the order.
    """

    objective: Literal["sft", "dpo"] = "dpo"
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=5e-6, gt=0)
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=8, ge=1)
    beta: float = Field(default=0.1, gt=0)
    targets: str | tuple[str, ...] = "all-linear"
    seed: int = 0


def train_lora(
    llm: HookedModel,
    pairs: Pairs,
    config: LoraSettings,
    name: str = "lora",
    progress: Advance | None = None,
) -> Lora:
    """Train a LoRA; the model itself is left as it was.

    Args:
        llm: The model.
        pairs: With bad answers for DPO.
        config: The settings.
        name: What reports call the LoRA.
        progress: Called with the number of pairs that are done in the first epoch.

    Raises:
        PairError: No pairs, one without a bad answer for DPO, or one that the model does not read.
        PromptTooLongError: Prompt and answer do not fit the context window.
        MissingExtraError: peft is not installed.
    """
    peft = require_peft()
    if not pairs:
        raise PairError("there are no pairs to train on: give at least one")
    fingerprint = llm.fingerprint
    rows = [_rows(llm, pair, config) for pair in pairs]
    plain = _plain_log_probs(llm, rows) if config.objective == "dpo" else []
    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=_targets(llm, config),
        task_type="CAUSAL_LM",
    )
    losses: list[float] = []
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        with lora_layers(llm, lora) as wrapped, torch.enable_grad():
            weights = [p for p in wrapped.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0)
            for epoch in range(config.epochs):
                order = torch.randperm(len(rows)).tolist()
                for start in range(0, len(order), config.batch_size):
                    batch = order[start : start + config.batch_size]
                    found = _loss(llm, [rows[i] for i in batch], [plain[i] for i in batch]
                                  if plain else [], config)  # fmt: skip
                    optimizer.zero_grad()
                    found.backward()  # type: ignore[no-untyped-call]
                    torch.nn.utils.clip_grad_norm_(weights, 1.0)
                    optimizer.step()
                    losses.append(float(found.detach()))
                    if progress is not None and epoch == 0:
                        progress(len(batch))
            state = peft.get_peft_model_state_dict(wrapped)
            trained = {key: value.detach().cpu().clone() for key, value in state.items()}
    return Lora(
        name=name,
        config=_plain(lora.to_dict()),
        weights=trained,
        fingerprint=fingerprint,
        provenance=Provenance(
            method="lora",
            config=config.model_dump(mode="json"),
            pairs=len(pairs),
            proposed_pairs=sum(pair.proposed for pair in pairs),
            data_digest=pairs.digest,
            library_version=library_version(),
            seen=kept(hashes_of(llm, pairs)),
            facts={"first_loss": losses[0], "last_loss": losses[-1]},
        ),
    )


def _targets(llm: HookedModel, config: LoraSettings) -> str | list[str]:
    """Return which layers peft is to adapt: of a model that reads images, the decoder's alone."""
    everything = config.targets == "all-linear"
    if isinstance(config.targets, str) and not (everything and llm.supports_images):
        return config.targets
    if not llm.supports_images:
        return list(config.targets)
    decoder = find_decoder(llm.model, llm.blocks)
    inside = {id(module) for module in decoder.modules() if isinstance(module, torch.nn.Linear)}
    ends = ("",) if everything else tuple(f".{target}" for target in config.targets)
    found = [
        name
        for name, module in llm.model.named_modules()
        if id(module) in inside and f".{name}".endswith(ends)
    ]
    if not found:
        raise InvalidInputError(
            f"no linear layer of the decoder is called {' or '.join(map(str, config.targets))}: "
            'give others as targets, or "all-linear"'
        )
    return found


def _rows(llm: HookedModel, pair: Any, config: LoraSettings) -> tuple[Answered, ...]:
    """The good answer, and for DPO the bad one."""
    prompt = read_prompt(llm, pair.messages, pair.id)
    answers = [pair.good]
    if config.objective == "dpo":
        if pair.bad is None:
            raise PairError(
                f"pair {pair.id} has no bad answer: give one, leave the pair out, or train with "
                'objective="sft"'
            )
        answers.append(pair.bad)
    rows = tuple((prompt, llm.encode_answer(answer)) for answer in answers)
    longest = max(len(answer) for _, answer in rows)
    llm.check_fit(len(prompt.tokens), longest, f"pair {pair.id}")
    return rows


def _plain_log_probs(
    llm: HookedModel, rows: Sequence[tuple[Answered, ...]]
) -> list[tuple[float, float]]:
    """Log P0 of the good and of the bad answer of every pair."""
    with torch.no_grad():
        sums = _log_probs(llm, rows).tolist()
    return list(zip(sums[::2], sums[1::2], strict=True))


def _log_probs(llm: HookedModel, rows: Sequence[tuple[Answered, ...]]) -> Tensor:
    items = [
        Scored(prompt.tokens, answer, Steering.none(), prompt.vision)
        for pair in rows
        for prompt, answer in pair
    ]
    with llm.turns:
        log_probs = answer_log_probs(llm, items)
    return torch.stack([x.sum() for x in log_probs])


def _loss(
    llm: HookedModel,
    rows: Sequence[tuple[Answered, ...]],
    plain: Sequence[tuple[float, float]],
    config: LoraSettings,
) -> Tensor:
    sums = _log_probs(llm, rows)
    if config.objective == "sft":
        return -sums.sum() / sum(len(answer) for pair in rows for _, answer in pair)
    before = torch.tensor(plain, device=sums.device)
    gained = sums.view(-1, 2) - before
    preferred: Tensor = logsigmoid(config.beta * (gained[:, 0] - gained[:, 1]))
    return -preferred.mean()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Peft's settings as JSON has them, without what is left open and where the model lay."""
    return {
        key: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for key, value in values.items()
        if key != "base_model_name_or_path"
        and (isinstance(value, str | int | float | bool | list | set) or hasattr(value, "value"))
    }
