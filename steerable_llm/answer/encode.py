"""From what was asked to what can run: requests checked, encoded, and their steering decided."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from steerable_llm.answer.calls import AnswerGrammar, grammar_for
from steerable_llm.answer.constraint import GrammarState
from steerable_llm.answer.decode import Prompt
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.decision import Asked, SteeringDecision
from steerable_llm.vector.steering import Steering

if TYPE_CHECKING:
    from steerable_llm.answer.llm import SteerableHFLLM


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
    llm.check_fit(len(read.tokens), request.max_new_tokens)
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
