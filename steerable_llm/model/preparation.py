"""From what was asked to what can run: requests checked, encoded, and their steering decided."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from steerable_llm.errors import InvalidInputError, PromptTooLongError
from steerable_llm.model.decoding import Prompt
from steerable_llm.model.generation import GenerationRequest
from steerable_llm.model.scoring import Scored
from steerable_llm.pairs import MessagesLike
from steerable_llm.policy.decision import Asked, SteeringDecision
from steerable_llm.steering import Steering
from steerable_llm.structured.call_grammar import AnswerGrammar, grammar_for
from steerable_llm.structured.guidance import GrammarState

if TYPE_CHECKING:
    from steerable_llm.model.hooked_model import SteerableHFLLM


def prompts_for(
    llm: SteerableHFLLM,
    requests: Sequence[GenerationRequest],
    cancelled: threading.Event | None = None,
) -> list[Prompt]:
    """Make requests ready to run; all are checked before the first condition is measured.

    Raises:
        InvalidInputError: Messages that cannot be used.
        PromptTooLongError: Prompt and answer do not fit the context window.
        UnknownStepError: The policy has no such step.
    """
    for place, request in enumerate(requests):
        if not isinstance(request, GenerationRequest):
            raise InvalidInputError(
                f"request {place} is a {type(request).__name__}: give GenerationRequest(messages)"
            )
    prompts = [_prompt(llm, request) for request in requests]
    # Hardly ever more than one: those that are asked with the same policy are decided together.
    groups: dict[int, list[int]] = defaultdict(list)
    for place, request in enumerate(requests):
        groups[id(request.policy)].append(place)
    decisions: dict[int, SteeringDecision] = {}
    for places in groups.values():
        asked = [_asked(requests[place]) for place in places]
        found = llm.decide(asked, cancelled, requests[places[0]].policy)
        decisions.update(zip(places, found, strict=True))
    return [
        replace(prompt, steering=decisions[place].steering, decision=decisions[place])
        for place, prompt in enumerate(prompts)
    ]


def answers_to(messages: MessagesLike, answers: Sequence[str]) -> list[tuple[MessagesLike, str]]:
    """Put answers beside their prompt.

    Raises:
        InvalidInputError: One text in place of a list, which would be scored letter by letter.
    """
    if isinstance(answers, str):
        raise InvalidInputError("answers is one text: give a list of answers, such as [text]")
    return [(messages, answer) for answer in answers]


def scored_for(
    llm: SteerableHFLLM,
    items: Sequence[tuple[MessagesLike, str]],
    steering: Steering | None,
    step: str | None,
) -> list[Scored]:
    """Make prompts with answers ready to be scored, steered as generating would be.

    Raises:
        InvalidInputError: An answer without a token.
        PromptTooLongError: Prompt and answer do not fit the context window.
        UnknownStepError: The policy has no such step.
    """
    scored = [_scored(llm, messages, answer) for messages, answer in items]
    decisions = llm.decide([Asked(x, step, steering) for x, _ in items])
    return [replace(x, steering=y.steering) for x, y in zip(scored, decisions, strict=True)]


def _asked(request: GenerationRequest) -> Asked:
    return Asked(
        request.messages, request.step, request.steering, request.context, request.structured
    )


def _prompt(llm: SteerableHFLLM, request: GenerationRequest) -> Prompt:
    chat, tools = llm.chat_format, request.offered_tools
    read = chat.read(request.messages, tools=tools)
    if read.vision and request.contrast is not None:
        raise InvalidInputError(
            "contrast compares texts and does not read images: leave contrast or the images out"
        )
    _check_fit(llm, len(read.tokens), request.max_new_tokens)
    calls = chat.tool_format if tools else None
    grammar = grammar_for(
        request.constraint,
        tools,
        request.tool_choice,
        calls,
        chat.added_id,
        chat.special_ids - llm.end_ids,
        request.parallel_tool_calls,
    )
    return Prompt(
        request, read.tokens, Steering.none(), _started(llm, grammar), calls, vision=read.vision
    )


def _started(llm: SteerableHFLLM, grammar: AnswerGrammar | None) -> GrammarState | None:
    if grammar is None:
        return None
    try:
        return llm.grammars.start(grammar.text, grammar.free)
    except InvalidInputError:
        if grammar.free:  # calls are then read as they come
            return None
        raise


def _scored(llm: SteerableHFLLM, messages: MessagesLike, answer: str) -> Scored:
    if not isinstance(answer, str):
        raise InvalidInputError(f"an answer to score is {answer!r}: give a text")
    read = llm.chat_format.read(messages)
    item = Scored(read.tokens, llm.encode_answer(answer), Steering.none(), read.vision)
    if not item.answer:
        raise InvalidInputError(
            "an empty answer has no probability with this tokenizer, which has no end-of-turn "
            "token: give a text"
        )
    _check_fit(llm, len(item.prompt), len(item.answer))
    return item


def _check_fit(llm: SteerableHFLLM, prompt_tokens: int, new_tokens: int) -> None:
    if prompt_tokens + new_tokens > llm.context_window:
        raise PromptTooLongError(prompt_tokens, new_tokens, llm.context_window)
