"""From requests and decisions to what an engine can run: messages encoded, grammars compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from steerable_llm.answer.call_grammar import AnswerGrammar, grammar_for
from steerable_llm.answer.constraint import GrammarState
from steerable_llm.answer.engine import Prompt
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.context import question_alone
from steerable_llm.chat.lower_bound import CHARACTERS
from steerable_llm.chat.message import as_messages
from steerable_llm.chat.template import ChatFormat
from steerable_llm.chat.vision import ReadPrompt
from steerable_llm.errors import InvalidInputError, PromptTooLongError
from steerable_llm.policy.decision import Asked, SteeringDecision

if TYPE_CHECKING:
    from steerable_llm.answer.llm import SteerableHFLLM


def asked(requests: Sequence[GenerationRequest]) -> list[Asked]:
    """Return what the decision on each request depends on.

    Raises:
        InvalidInputError: One of them is no request.
    """
    for place, request in enumerate(requests):
        if not isinstance(request, GenerationRequest):
            raise InvalidInputError(
                f"request {place} is a {type(request).__name__}: give GenerationRequest(messages)"
            )
    return [
        Asked(
            request.messages,
            request.step,
            request.steering,
            request.context,
            request.structured,
            request.policy,
            request.contrast,
            request.chat_template_kwargs,
        )
        for request in requests
    ]


def refuse_too_long(llm: SteerableHFLLM, requests: Sequence[GenerationRequest]) -> None:
    """Refuse prompts that are far too long before anything takes the time to encode them.

    Raises:
        PromptTooLongError: There is one.
    """
    window = llm.context_window
    for request in requests:
        tools = request.offered_tools
        given = sum(len(message.content) for message in as_messages(request.messages))
        if given + sum(len(str(tool)) for tool in tools) <= CHARACTERS * window:
            continue
        chat = llm.chat_format.given(request.chat_template_kwargs)
        found = chat.tokens_at_least(request.messages, tools, window)
        if found > window:
            raise PromptTooLongError(found, request.length(), window, at_least=True)


def encode(
    llm: SteerableHFLLM,
    requests: Sequence[GenerationRequest],
    decisions: Sequence[SteeringDecision],
) -> list[Prompt]:
    """Make requests ready to run.

    Raises:
        InvalidInputError: Messages or a constraint that cannot be used.
        PromptTooLongError: Prompt and answer do not fit the context window.
    """
    return [
        _prompt(llm, request, decision)
        for request, decision in zip(requests, decisions, strict=True)
    ]


def _prompt(llm: SteerableHFLLM, request: GenerationRequest, decision: SteeringDecision) -> Prompt:
    chat, tools = llm.chat_format.given(request.chat_template_kwargs), request.offered_tools
    if decision.instruction is not None and not chat.takes_instructions:
        decision = decision.without_instruction("the prompt is in the template's form already")
    messages = chat.instructed(request.messages, decision.instruction)
    if merged := chat.merges(messages, tools):
        decision = decision.noting(
            f"template: it wants turns to alternate: {merged} message(s) joined to the one before"
        )
    read = chat.read(messages, tools=tools)
    if not read.tokens:
        raise InvalidInputError("the prompt is empty: give a text")
    length = request.length(llm.context_window - len(read.tokens))
    llm.check_fit(len(read.tokens), length)
    calls = chat.tool_format if tools else None
    grammar = grammar_for(
        request.constraint,
        tools,
        request.tool_choice,
        calls,
        chat.added_id,
        chat.whole_ids - llm.end_ids,
        request.parallel_tool_calls,
    )
    return Prompt(
        replace(request, max_new_tokens=length, chat_template_kwargs=chat.arguments or None),
        read.tokens,
        decision,
        grammar=_started(llm, grammar),
        tool_format=calls,
        vision=read.vision,
        bare=_bare(chat, request, decision) if decision.contrast else None,
    )


def _bare(
    chat: ChatFormat, request: GenerationRequest, decision: SteeringDecision
) -> ReadPrompt | None:
    """Return the prompt without its context, which is told before an instruction joins it."""
    question = question_alone(request.messages, request.context)
    if question is None:
        return None
    return chat.read(chat.instructed(question, decision.instruction))


def _started(llm: SteerableHFLLM, grammar: AnswerGrammar | None) -> GrammarState | None:
    if grammar is None:
        return None
    try:
        return llm.grammars.start(grammar.text, grammar.free)
    except InvalidInputError:
        if grammar.free:  # calls are then read as they come
            return None
        raise
