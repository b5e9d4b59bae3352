"""A chain's calls as a JSONL file, to see what a policy would do with each."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from steerable_llm.conversation import as_conversation
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.policy_file import explain


class TracedCall(BaseModel):
    """One call of a chain, as far as a policy can see it.

    Attributes:
        step: the step that the application named.
        node: the LangGraph node.
        tags: the tags of a LangChain call; "steer:NAME" names the step.
        prompt_type: the type of a LlamaIndex prompt.
        messages: the prompt, as text or messages; without it, conditions stay open.
        context: whether the prompt holds retrieved text, or the retrieved texts.
        structured: whether the answer is to be tool calls or JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str | None = None
    node: str | None = None
    tags: tuple[str, ...] = ()
    prompt_type: str | None = None
    messages: str | tuple[Mapping[str, Any], ...] | None = None
    context: bool | tuple[str, ...] | None = None
    structured: bool = False


def read_trace(path: str | os.PathLike[str]) -> list[TracedCall]:
    """Read a trace, one JSON object per line; blank lines are skipped.

    Raises:
        InvalidInputError: there is no such file, it holds no call, or a line is not one.
    """
    source = Path(path)
    if not source.is_file():
        raise InvalidInputError(f"there is no trace {source}: give the path of a JSONL file")
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{source} is not text in UTF-8: give a trace as JSON lines"
        ) from error
    calls = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            call = TracedCall.model_validate_json(line)
        except ValidationError as error:
            raise InvalidInputError(
                f"{source}, line {number}: {explain(error, TracedCall)}"
            ) from error
        if call.messages is not None:
            try:
                as_conversation(call.messages)
            except InvalidInputError as error:
                raise InvalidInputError(f"{source}, line {number}: {error}") from error
        calls.append(call)
    if not calls:
        raise InvalidInputError(f"the trace {source} is empty: it needs one call per line")
    return calls
