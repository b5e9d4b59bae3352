"""A chat without its context, however the context is marked."""

from __future__ import annotations

import pytest

from steerable_llm.message_parts import question_only, without_context


@pytest.mark.parametrize(
    ("content", "question"),
    [
        ("Context:\nParis is small.\n\nQuestion: Is it?", "Question: Is it?"),
        ("<documents>\nParis is small.\n</documents>\nIs it?", "Is it?"),
        ("Paris is small.\n\nIs it?", "Is it?"),
        ("Be brief.\n\nText: Paris is small.\n\nQuery: Is it?", "Be brief.\n\nQuery: Is it?"),
        ("Is it?", "Is it?"),
    ],
)  # fmt: skip
def test_only_the_question_is_left(content: str, question: str) -> None:
    assert question_only(content) == question


def test_system_messages_and_earlier_turns_stay() -> None:
    chat = [
        {"role": "system", "content": "Be brief.\n\nIs that clear?"},
        {"role": "user", "content": "Context: a\n\nQuestion: b?"},
        {"role": "assistant", "content": "Context: c"},
        {"role": "user", "content": "And d?"},
    ]
    assert without_context(chat) == [
        chat[0], {"role": "user", "content": "Question: b?"}, chat[2], chat[3],
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["Why?", "  Why?  ", "Question: Why?", "Context: all of it."])
def test_a_prompt_without_context_beside_a_question_has_none_to_take_away(content: str) -> None:
    assert without_context(content) is None
