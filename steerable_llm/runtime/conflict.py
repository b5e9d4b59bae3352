"""How far a prompt's context speaks against the model's own answer."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from steerable_llm.chat.message import Message
from steerable_llm.chat.vision import in_one_batch
from steerable_llm.runtime.decoding import greedy_tokens
from steerable_llm.runtime.forward import run_prompts
from steerable_llm.vector.steering import Steering

if TYPE_CHECKING:
    from steerable_llm.runtime.hooked_model import HookedModel

ANSWER_TOKENS = 32
"""Tokens of the model's own answer that are looked at; where it departs from the context shows
early."""

ROWS = 32
"""Prompts that are answered together."""


Probe: TypeAlias = tuple[Sequence[Message], Sequence[Message], Mapping[str, Any] | None]
"""A prompt with its context and without it, and what the chat template is given beside both."""


def conflicts(
    llm: HookedModel,
    prompts: Sequence[Probe],
    cancelled: threading.Event | None = None,
) -> list[float | None]:
    """Measure the conflict between context and memory, in nats per token.

    Let y be what the unsteered model answers to the whole prompt, greedily. The conflict is the
    mean over the tokens of y of log p(y | question alone) - log p(y | context and question), by
    the same unsteered weights. Above 0 the context speaks against the answer that the model gives
    all the same; around 0 the answer could have been given without reading; far below 0 it was
    taken from the context.

    Prompts are answered and scored together, those with images where the model can.

    Args:
        llm: The model.
        prompts: Each with its context and without it, in the template as the request has it.
        cancelled: Once set, the work stops after the token at hand.

    Returns:
        One number per prompt; None where the context window leaves no room for an answer, where the
        model was still thinking, and for all after a cancellation.
    """
    stop = threading.Event() if cancelled is None else cancelled
    whole = [llm.chat_format.given(more).read(prompt) for prompt, _, more in prompts]
    # One token is the answer's end of turn.
    room = [llm.context_window - 1 - len(read.tokens) for read in whole]
    texts: dict[int, str] = {}
    able = [i for i, tokens in enumerate(room) if tokens > 0]
    order = sorted(able, key=lambda i: len(whole[i].tokens))
    for rows in llm.image_batches.split(whole, order, ROWS):
        if stop.is_set():
            break
        with llm.turns:
            stream = run_prompts(
                llm,
                [whole[i].tokens for i in rows],
                [Steering.none()] * len(rows),
                in_one_batch([whole[i] for i in rows], "left"),
            )
            most = [min(ANSWER_TOKENS, room[i]) for i in rows]
            answers = greedy_tokens(stream, llm.end_ids, most, stop)
        for i, tokens in zip(rows, answers, strict=True):
            text = llm.answer_text(tokens, whole[i].tokens)
            if text or len(tokens) <= 1:  # else it was still thinking
                texts[i] = text
    found: list[float | None] = [None] * len(prompts)
    if stop.is_set():
        return found
    # Without words and without an end-of-turn token there is nothing to score.
    left = [index for index, text in texts.items() if llm.encode_answer(text)]
    while left:
        more = prompts[left[0]][2]
        told = [index for index in left if prompts[index][2] == more]
        left = [index for index in left if index not in told]
        scored = llm.score_batch(
            [(prompt, texts[index]) for index in told for prompt in prompts[index][:2]],
            Steering.none(),
            reduction="none",
            chat_template_kwargs=more,
        )
        for place, index in enumerate(told):
            with_context, alone = scored[2 * place], scored[2 * place + 1]
            # The end of turn says nothing about the content, and a cut answer never reached it.
            words = max(len(with_context) - (llm.chat_format.end_of_turn_id is not None), 1)
            found[index] = (sum(alone[:words]) - sum(with_context[:words])) / words
    return found
