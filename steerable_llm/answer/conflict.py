"""How far a prompt's context speaks against the model's own answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.context import PlainMessages
from steerable_llm.vector.steering import Steering

if TYPE_CHECKING:
    from steerable_llm.answer.llm import SteerableHFLLM


ANSWER_TOKENS = 32
"""Tokens of the model's own answer that are looked at; where it departs from the context shows
early."""


def conflicts(
    llm: SteerableHFLLM,
    prompts: Sequence[tuple[PlainMessages, PlainMessages]],
    cancelled: threading.Event | None = None,
) -> list[float | None]:
    """Measure the conflict between context and memory, in nats per token.

    Let y be what the unsteered model answers to the whole prompt, greedily. The conflict is the
    mean over the tokens of y of log p(y | question alone) - log p(y | context and question), by
    the same unsteered weights. Above 0 the context speaks against the answer that the model gives
    all the same; around 0 the answer could have been given without reading; far below 0 it was
    taken from the context.

    All prompts share one batch of generation and one of scoring.

    Args:
        llm: The model.
        prompts: Each prompt with its context and without it.
        cancelled: Once set, the work stops after the token at hand.

    Returns:
        One number per prompt; None where the context window leaves no room for an answer,
        and for all after a cancellation.
    """
    unsteered = Steering.none()
    # One token is the answer's end of turn.
    room = [llm.context_window - 1 - len(llm.encode(whole)) for whole, _ in prompts]
    fitting = [index for index, tokens in enumerate(room) if tokens > 0]
    answers = llm.generate_batch(
        [
            GenerationRequest(
                prompts[index][0], unsteered, max_new_tokens=min(ANSWER_TOKENS, room[index])
            )
            for index in fitting
        ],
        cancelled=cancelled,
    )
    found: list[float | None] = [None] * len(prompts)
    if not answers:
        return found
    texts = {index: answer.text for index, answer in zip(fitting, answers, strict=True)}
    # Without words and without an end-of-turn token there is nothing to score.
    texts = {index: text for index, text in texts.items() if llm.encode_answer(text)}
    scored = llm.score_batch(
        [(prompt, text) for index, text in texts.items() for prompt in prompts[index]],
        unsteered,
        reduction="none",
    )
    for place, index in enumerate(texts):
        whole, alone = scored[2 * place], scored[2 * place + 1]
        # The end of turn says nothing about the content, and a cut answer never reached it.
        words = max(len(whole) - (llm.chat_format.end_of_turn_id is not None), 1)
        found[index] = (sum(alone[:words]) - sum(whole[:words])) / words
    return found
