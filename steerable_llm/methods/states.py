"""Hidden states at the end of texts, which most methods compare."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from steerable_llm.chat.message import MessagesLike
from steerable_llm.chat.vision import ReadPrompt, in_one_batch
from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.methods.decision import stem_length
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.runtime.forward import TOKENS_PER_PASS, site_states
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.steering import Site


class AnswerStates(BaseModel, frozen=True, extra="forbid"):
    """Settings of every method that reads states after good and bad answers.

    Attributes:
        layers: 0-based blocks to build directions for; None means all.
        answer_tokens: Read the state after so many tokens of each answer, counted from the first
            one in which good and bad differ; None reads it after the last one (before the end of
            turn).
    """

    layers: tuple[int, ...] | None = None
    answer_tokens: int | None = Field(default=None, ge=1)


# The sources read the answers' last token. Answers that say where they come from part at their
# first words, so that is tried as well: every method gets the place where it does best.
ANSWER_PLACES: tuple[Mapping[str, Any], ...] = ({}, {"answer_tokens": 2})


def read_states(
    llm: HookedModel, texts: Sequence[ReadPrompt], site: Site = "block", last: int = 1
) -> Tensor:
    """Read every block's activations at the end of texts.

    Args:
        llm: The model; it is run unsteered.
        texts: None empty; batched by length, those with images where the model can.
        site: Which activations.
        last: Take the mean over so many last tokens (over all, where a text is shorter).

    Returns:
        float32 [n, L, width] on the CPU.
    """
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].tokens))
    found: dict[int, Tensor] = {}
    while order:
        size = max(1, TOKENS_PER_PASS // len(texts[order[0]].tokens))
        batch, *_ = llm.image_batches.split(texts, order[:size], size, side="right")
        order = [i for i in order if i not in batch]
        vision = in_one_batch([texts[i] for i in batch], "right")
        captured = site_states(llm, [texts[i].tokens for i in batch], site, vision)
        for row, i in enumerate(batch):
            end = len(texts[i].tokens)
            tail = slice(max(0, end - last), end)
            states = [h[row, tail].float().mean(0).cpu() for h in captured]
            found[i] = torch.stack(states)
    return torch.stack([found[i] for i in range(len(texts))])


def answer_states(
    llm: HookedModel,
    pairs: Pairs,
    answer_tokens: int | None = None,
    site: Site = "block",
    last: int = 1,
    progress: Advance | None = None,
) -> tuple[Tensor, Tensor]:
    """Read every block's activations at the end of the good answers, and of the bad ones.

    Returns:
        Two times float32 [n, L, width].

    Raises:
        PairError: A pair without a bad answer, or whose images the model does not read.
        PromptTooLongError: Prompt and answer do not fit the context window.
    """
    texts: tuple[list[ReadPrompt], list[ReadPrompt]] = ([], [])
    for pair in pairs:
        if pair.bad is None:
            raise PairError(
                f"pair {pair.id} has no bad answer, and this method compares good with bad: give "
                'one, leave the pair out, or use method="contextfocus" or grains with '
                'objective="likelihood"'
            )
        prompt = read_prompt(llm, pair.messages, pair.id)
        answers = [without_end(llm, answer) for answer in (pair.good, pair.bad)]
        end = None if answer_tokens is None else stem_length(*answers) + answer_tokens
        for ends, answer in zip(texts, answers, strict=True):
            llm.check_fit(len(prompt.tokens), len(answer[:end]), f"pair {pair.id}")
            ends.append(llm.followed(prompt, answer[:end]))
    good, bad = (read_states(llm, ends, site, last) for ends in texts)
    if progress is not None:
        progress(len(pairs))
    return good, bad


def answer_deltas(
    llm: HookedModel, pairs: Pairs, config: AnswerStates, progress: Advance | None = None
) -> tuple[tuple[int, ...], Tensor]:
    """Return the L blocks to build for and the good states minus the bad ones, float32 [n, L, d].

    Arguments and errors are those of `Method.extract`.
    """
    layers = chosen_layers(llm, config.layers)
    good, bad = answer_states(llm, pairs, config.answer_tokens, progress=progress)
    return layers, (good - bad)[:, list(layers)]


def prompt_scales(
    llm: HookedModel, pairs: Pairs, layers: Sequence[int], site: Site = "block"
) -> dict[int, float]:
    """Return the mean length of a site's activations at the last prompt position, per block."""
    states = read_states(llm, [llm.chat_format.read(pair.messages) for pair in pairs], site)
    # A part that gives nothing at all has no length to take shares of; any number will do.
    lengths = states.norm(dim=-1).mean(0).clamp_min(torch.finfo(torch.float32).tiny)
    return {layer: float(lengths[layer]) for layer in layers}


def chosen_layers(llm: HookedModel, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Return the blocks to build for, ascending; all when none are named.

    Raises:
        InvalidInputError: The model does not have them.
    """
    depth = len(llm.blocks)
    layers = tuple(range(depth)) if wanted is None else tuple(sorted(set(wanted)))
    if not layers or layers[0] < 0 or layers[-1] >= depth:
        raise InvalidInputError(
            f"layers {wanted} do not fit the model, which has blocks 0 to {depth - 1}"
        )
    return layers


def read_prompt(llm: HookedModel, messages: MessagesLike, pair_id: str) -> ReadPrompt:
    """Return the prompt of a pair as the model takes it, images and all.

    Raises:
        PairError: The model does not take it; the message names the pair.
        PromptTooLongError: It does not fit the context window.
    """
    try:
        prompt = llm.chat_format.read(messages)
    except InvalidInputError as error:
        raise PairError(f"pair {pair_id}: {error}") from error
    llm.check_fit(len(prompt.tokens), 0, f"pair {pair_id}")
    return prompt


def without_end(llm: HookedModel, answer: str) -> list[int]:
    """Return the tokens of an answer up to the end of its turn."""
    ids = llm.encode_answer(answer)
    ends = len(ids) > 1 and ids[-1] == llm.chat_format.end_of_turn_id
    return ids[:-1] if ends else ids
