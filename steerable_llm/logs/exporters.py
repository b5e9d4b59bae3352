"""Exporting pairs for trainers: TRL's and OpenAI's preference files, one pair a line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from steerable_llm.errors import InvalidInputError
from steerable_llm.files import write_json_lines
from steerable_llm.pairs.pair import PreferencePair

Line = dict[str, Any]


def _trl(pair: PreferencePair) -> Iterator[Line]:
    yield {**_trl_prompt(pair), "chosen": _said(pair.good), "rejected": _said(_bad(pair))}


def _trl_unpaired(pair: PreferencePair) -> Iterator[Line]:
    yield {**_trl_prompt(pair), "completion": _said(pair.good), "label": True}
    if pair.bad is not None:
        yield {**_trl_prompt(pair), "completion": _said(pair.bad), "label": False}


def _trl_prompt(pair: PreferencePair) -> Line:
    """The prompt as transformers' chat templates read it, and its images beside it."""
    messages = [{**message} for message in pair.messages]
    if not pair.images:
        return {"prompt": messages}
    for message in messages:
        if not isinstance(message["content"], str):
            message["content"] = [
                part if part["type"] == "text" else {"type": "image"} for part in message["content"]
            ]
    return {"images": [image.url for image in pair.images], "prompt": messages}


def _openai(pair: PreferencePair) -> Iterator[Line]:
    messages = [message.to_wire() for message in pair.messages]
    yield {
        "input": {"messages": messages, "tools": [], "parallel_tool_calls": True},
        "preferred_output": _said(pair.good),
        "non_preferred_output": _said(_bad(pair)),
    }


#: The formats: TRL's preference and unpaired preference types in conversational form, OpenAI's.
EXPORTERS: dict[str, Callable[[PreferencePair], Iterator[Line]]] = {
    "openai": _openai,
    "trl": _trl,
    "trl-unpaired": _trl_unpaired,
}


def export_pairs(path: str | os.PathLike[str], pairs: Iterable[PreferencePair], kind: str) -> int:
    """Write pairs as a preference file of a kind in `EXPORTERS`; it appears whole or not at all.

    Their documents and sources have no place in these formats.

    Returns:
        How many lines were written.

    Raises:
        InvalidInputError: An unknown kind, or a pair without a bad answer where one is needed.
    """
    if kind not in EXPORTERS:
        raise InvalidInputError(f"{kind!r} cannot be exported: one of {', '.join(EXPORTERS)}")
    return write_json_lines(path, (line for pair in pairs for line in EXPORTERS[kind](pair)))


def _said(answer: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer}]


def _bad(pair: PreferencePair) -> str:
    if pair.bad is None:
        raise InvalidInputError(
            f"the pair {pair.id!r} has no bad answer, which a preference file needs: "
            "leave it out, or export as trl-unpaired"
        )
    return pair.bad
