"""What the model did on each prompt under each arm: the raw material of every number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import NamedTuple, TypeAlias

from torch import Tensor

from steerable_llm.chat.vision import ReadPrompt, in_one_batch
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.metrics import kl_per_token
from steerable_llm.progress import Advance
from steerable_llm.runtime.contrast import bare_prompt, contrasted
from steerable_llm.runtime.decoding import Rows, forced_logits, greedy_tokens, log_probs
from steerable_llm.runtime.forward import run_prompts
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.lora import adapted
from steerable_llm.runtime.ray_workers import RayWorkers, serially

#: One prompt to run under one arm.
Asked: TypeAlias = tuple[Arm, EvaluationItem]


@contextmanager
def running(
    llm: HookedModel, asked: Sequence[Asked], prompts: Sequence[ReadPrompt], new_tokens: int
) -> Iterator[Rows]:
    """Run prompts, as the model reads them, that may share a batch (see `groups` and `batches`).

    Raises:
        PromptTooLongError: A prompt with its answer does not fit the context window.
    """
    for (_, item), prompt in zip(asked, prompts, strict=True):
        llm.check_fit(len(prompt.tokens), new_tokens, f"item {item.id!r}")
    arms = [arm for arm, _ in asked]
    steerings = [arm.steering for arm in arms]
    lora = arms[0].lora
    contrasts = [arm.contrast for arm in arms]
    with nullcontext() if lora is None else adapted(llm, lora), llm.turns:
        tokens = [prompt.tokens for prompt in prompts]
        # Models that read images may keep what they know of the rows, which are then not shared.
        shared = llm.chat_format.vision is None
        rows = run_prompts(llm, tokens, steerings, in_one_batch(prompts, "left"), share=shared)
        if any(contrasts):
            bare = [bare_prompt(llm.chat_format, arm.messages(item)) for arm, item in asked]
            yield contrasted(llm, rows, bare, contrasts)
        else:
            yield rows


def groups(arms: Sequence[Arm]) -> list[list[int]]:
    """Return the places of arms that may share a batch; those that steer or prompt come first."""
    found: dict[tuple[bool, int], list[int]] = {(False, 0): []}
    for place, arm in enumerate(arms):
        lora = 0 if arm.lora is None else id(arm.lora)
        found.setdefault((arm.contrast is not None, lora), []).append(place)
    return [group for group in found.values() if group]


def batches(
    llm: HookedModel,
    arms: Sequence[Arm],
    prompts: Sequence[ReadPrompt],
    order: Sequence[int],
    size: int,
) -> list[list[int]]:
    """Return which prompts run together, in this order, each of them under its arm."""
    # What is contrasted has a second stream beside it.
    keys = [None if arm.contrast else arm.steering.tower_key for arm in arms]
    return llm.image_batches.split(prompts, order, size, keys)


@dataclass(frozen=True)
class Outcome:
    """What one arm did on one prompt.

    Attributes:
        item: The prompt.
        text: The answer, greedy.
        tokens: The answer's token ids, the end of turn included.
        margin: f(x) of paper eq. 1, log P(good) - log P(bad), sums over tokens; None when the
            item lacks one of them.
        kl_per_token: Divergence from the unsteered model along its own answer, nats per token.
    """

    item: EvaluationItem
    text: str
    tokens: tuple[int, ...] = field(repr=False)
    margin: float | None = None
    kl_per_token: float = 0.0

    @property
    def success(self) -> float | None:
        """1.0 or 0.0 by the item's accept and reject phrases; None when it has none."""
        return float(self.item.succeeds(self.text)) if self.item.has_verdict else None

    @property
    def main(self) -> float:
        """What differences are taken of: success, or f > 0 where the item says nothing of it."""
        success = self.success
        return success if success is not None else float((self.margin or 0.0) > 0)


def answers(
    llm: HookedModel,
    asked: Sequence[Asked],
    max_new_tokens: int,
    batch_size: int = 64,
    advance: Advance | None = None,
) -> list[str]:
    """Return greedy answers, batched whatever their arms.

    Raises:
        PromptTooLongError: A prompt with its answer does not fit the context window.
    """
    prompts = [llm.chat_format.read(arm.messages(item)) for arm, item in asked]
    done: dict[int, str] = {}
    for group in groups([arm for arm, _ in asked]):
        # Arms on one prompt stand together, those of a scope that can share it apart from others.
        tokens = [prompt.tokens for prompt in prompts]
        order = sorted(group, key=lambda i: (_shares(asked[i][0]), -len(tokens[i]), tokens[i]))
        for chunk in batches(llm, [arm for arm, _ in asked], prompts, order, batch_size):
            rows = [asked[i] for i in chunk]
            with running(llm, rows, [prompts[i] for i in chunk], max_new_tokens) as batch:
                made = greedy_tokens(batch, llm.end_ids, max_new_tokens)
            done.update(
                (i, llm.answer_text(x, tokens[i])) for i, x in zip(chunk, made, strict=True)
            )
            if advance is not None:
                advance(len(chunk))
    return [done[i] for i in range(len(asked))]


def measure(
    llm: HookedModel,
    arms: Sequence[Arm],
    items: Sequence[EvaluationItem],
    max_new_tokens: int = 32,
    batch_size: int = 64,
    advance: Advance | None = None,
    shares: Sequence[float] | None = None,
    workers: RayWorkers | None = None,
) -> list[list[Outcome]]:
    """Run every arm on every item and score the items' own answers as well.

    One of the arms is called "none": the divergence is taken from it. `advance` counts a prompt
    once per arm. Of `shares` every item has one, of the strength that arms have on it. The batches
    are the same with workers and without, so that the outcomes are, too.

    Returns:
        Per arm, in the order given, the outcomes in the order of the items.

    Raises:
        PromptTooLongError: A prompt with an answer does not fit the context window.
    """
    # By what is known without reading the images, of which each makes many tokens, once more.
    longest_first = sorted(range(len(items)), key=lambda i: _length(items[i]), reverse=True)
    # An item's arms share a batch: its prompt, and its unsteered logits, serve them all.
    size = max(1, batch_size // len(arms))
    tables = [
        [
            [(arm if shares is None else arm.at(shares[i]), items[i]) for arm in arms]
            for i in longest_first[start : start + size]
        ]
        for start in range(0, len(items), size)
    ]
    work = partial(_measure, max_new_tokens=max_new_tokens)

    def count(table: Sequence[object]) -> None:
        if advance is not None:
            advance(len(table) * len(arms))

    found = (
        serially(llm, work, tables, count)
        if workers is None
        else (workers.map(llm, work, tables, count))
    )
    done = dict(zip(longest_first, chain.from_iterable(found), strict=True))
    return [[done[i][number] for i in range(len(items))] for number in range(len(arms))]


def _length(item: EvaluationItem) -> tuple[int, int]:
    """Return how many images and how many characters a prompt has."""
    said = item.messages
    return sum(len(m.images) for m in said), sum(len(m.content) for m in said)


class _Reading(NamedTuple):
    """What one row gave: its answer, and the margin where the item has both answers."""

    text: str
    tokens: list[int]
    along: Tensor  # [n, V], logits along the unsteered answer to the same item
    margin: float | None


def _measure(
    llm: HookedModel, table: Sequence[Sequence[Asked]], max_new_tokens: int
) -> list[list[Outcome]]:
    """Per item, its outcome under each arm; the table has each item with what each arm is there."""
    arms = [arm for arm, _ in table[0]]
    none = [arm.name for arm in arms].index("none")
    found: dict[tuple[int, int], _Reading] = {}
    for group in groups(arms):
        places = [(i, number) for i in range(len(table)) for number in group]
        asked = [table[i][number] for i, number in places]
        prompts = [llm.chat_format.read(arm.messages(item)) for arm, item in asked]
        # The unsteered answers are made first.
        order = sorted(range(len(places)), key=lambda row: places[row][1] != none)
        for batch in batches(llm, [arm for arm, _ in asked], prompts, order, len(places)):
            rows = {places[row]: number for number, row in enumerate(batch)}
            beside = [
                rows[i, none] if (i, none) in rows else found[i, none].tokens for i, _ in rows
            ]
            read = _read(
                llm, [asked[x] for x in batch], [prompts[x] for x in batch], beside, max_new_tokens
            )
            found.update(zip(rows, read, strict=True))
    return [
        [
            Outcome(
                row[number][1],
                reading.text,
                tuple(reading.tokens),
                reading.margin,
                0.0 if number == none else kl_per_token(reading.along, found[i, none].along),
            )
            for number in range(len(arms))
            for reading in [found[i, number]]
        ]
        for i, row in enumerate(table)
    ]


def _read(
    llm: HookedModel,
    asked: Sequence[Asked],
    prompts: Sequence[ReadPrompt],
    beside: Sequence[int | Sequence[int]],
    max_new_tokens: int,
) -> list[_Reading]:
    """Run rows that may share a batch, each beside the unsteered answer to its item.

    `beside` has that answer, or the row that makes it.
    """
    good, bad = (
        [llm.encode_answer(getattr(x, name)) if x.has_preference else [] for _, x in asked]
        for name in ("good", "bad")
    )
    longest = max(max_new_tokens, *map(len, good), *map(len, bad))
    margins: list[float | None] = [None] * len(asked)
    with running(llm, asked, prompts, longest) as batch:
        made = greedy_tokens(batch, llm.end_ids, max_new_tokens)
        along = forced_logits(batch, [made[x] if isinstance(x, int) else x for x in beside])
        if any(good):
            plus, minus = (
                [0.0 if x is None else float(log_probs(x, a).sum()) for x, a in rows]
                for given in (good, bad)
                for rows in [zip(forced_logits(batch, given), given, strict=True)]
            )
            margins = [
                p - m if item.has_preference else None
                for (_, item), p, m in zip(asked, plus, minus, strict=True)
            ]
    readings = []
    for prompt, tokens, logits, margin in zip(prompts, made, along, margins, strict=True):
        assert logits is not None  # every answer has a token, if only the end of turn
        text = llm.answer_text(tokens, prompt.tokens)
        readings.append(_Reading(text, tokens, logits, margin))
    return readings


def _shares(arm: Arm) -> bool:
    return not {term.scope for term in arm.steering.active_terms} & {"all", "prompt"}
