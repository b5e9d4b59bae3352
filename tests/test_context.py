"""Retrieved text is told from the question, in the forms that frameworks and people write."""

import pytest

from steerable_llm.chat.context import (
    has_context,
    question_alone,
    question_text,
    without_context,
)
from steerable_llm.chat.message import Message, as_messages

FENCE = "---------------------"
LLAMA_INDEX = (
    f"Context information is below.\n{FENCE}\n{{}}\n{FENCE}\nGiven the context information and not "
    "prior knowledge, answer the query.\nQuery: When does it open?\nAnswer: "
)
LANGCHAIN = (
    "You are an assistant for question-answering tasks. Use the following pieces.\n"
    "Question: When does it open?\nContext: {}\nAnswer:"
)
NUMBERED = "Documents:\n{}\n\nQuestion: When does it open?"
PLAIN = "Answer the question based only on the following context:\n{}\n\nQuestion: When?"
TAGGED = "Use the documents.\n<documents>\n{}\n</documents>\n\nWhen does it open?"
SYSTEM = f"Use the context information below to assist the user.\n{FENCE}\n{{}}\n{FENCE}"
PASSAGE = "[1] The shop opens at nine."


def asked(text: str, role: str = "user") -> tuple[Message, ...]:
    return (Message(role=role, content=text),)


@pytest.mark.parametrize("form", [LLAMA_INDEX, LANGCHAIN, NUMBERED, PLAIN, TAGGED, SYSTEM])
def test_retrieved_text_is_found_and_an_empty_place_for_it_is_not(form: str) -> None:
    role = "system" if form is SYSTEM else "user"
    assert has_context(asked(form.format(PASSAGE), role))
    assert not has_context(asked(form.format(""), role))


@pytest.mark.parametrize("form", [LLAMA_INDEX, LANGCHAIN, NUMBERED])
def test_without_its_context_a_prompt_is_its_question(form: str) -> None:
    [left] = without_context(asked(form.format(PASSAGE)))
    assert "nine" not in left["content"]
    assert "context" not in left["content"].lower()
    assert "When does it open?" in left["content"]
    assert question_text(asked(form.format(PASSAGE))) == "When does it open?"


def test_a_plain_question_has_no_context_and_stays_as_it_is() -> None:
    plain = asked("When does the shop open?")
    assert not has_context(plain)
    assert without_context(plain) == plain
    assert question_text(plain) == "When does the shop open?"
    assert not has_context(asked("Be brief.\nQuestion: When?"))


def test_a_letter_of_several_paragraphs_is_no_context_unless_the_caller_says_so() -> None:
    letter = asked("Dear shop,\nI bought a lamp.\n\nWhen does it open?")
    assert not has_context(letter)
    assert without_context(letter) == letter
    assert without_context(letter, True) == asked("When does it open?")


def test_a_tools_result_is_context_and_leaves_with_its_call() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {}}}
    messages = [
        *asked("When does it open?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "name": "look", "content": "At nine."},
    ]
    assert has_context(messages)
    assert without_context(messages) == asked("When does it open?")
    assert not has_context(messages[:2])


def test_what_the_caller_says_goes_before_the_marks() -> None:
    unmarked = asked("The shop opens at nine. When?")
    marked = asked(NUMBERED.format(PASSAGE))
    assert has_context(unmarked, True)
    assert not has_context(marked, False)
    assert has_context(unmarked, ["The shop opens at nine."])
    assert not has_context(unmarked, [])
    assert has_context(unmarked, "The shop opens at nine.")
    assert not has_context(unmarked, " ")
    assert without_context(unmarked, ["The shop opens at nine."]) == asked(" When?")


def test_the_system_message_and_earlier_turns_stay() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        *asked("Hello."),
        {"role": "assistant", "content": "Hi. Question: none."},
        *asked(NUMBERED.format(PASSAGE)),
    ]
    left = without_context(messages)
    assert left[:3] == as_messages(messages)[:3]
    assert left[3]["content"] == "Question: When does it open?"


def test_a_message_of_parts_is_read_as_its_texts() -> None:
    parts = [{"type": "image", "url": "x.png"}, {"type": "text", "text": NUMBERED.format("a")}]
    assert has_context([{"role": "user", "content": parts}])
    assert question_text([{"role": "user", "content": parts}]) == "When does it open?"


def test_without_a_user_message_there_is_no_question() -> None:
    assert question_text(asked("Be brief.", "system")) is None
    assert question_text(asked("Documents:\n[1] a")) is None


@pytest.mark.parametrize(
    ("content", "question"),
    [
        ("Context:\nParis is small.\n\nQuestion: Is it?", "Question: Is it?"),
        ("<documents>\nParis is small.\n</documents>\nIs it?", "Is it?"),
        ("Paris is small.\n\nIs it?", "Is it?"),
        ("Be brief.\n\nText: Paris is small.\n\nQuery: Is it?", "Query: Is it?"),
        (LLAMA_INDEX.format(PASSAGE), "Query: When does it open?"),
    ],
)  # fmt: skip
def test_a_contrast_is_with_the_question_alone(content: str, question: str) -> None:
    assert question_alone(content) == asked(question)


@pytest.mark.parametrize("content", ["Why?", "  Why?  ", "Question: Why?", "Context: all of it."])
def test_a_prompt_without_context_beside_a_question_has_nothing_to_contrast(content: str) -> None:
    assert question_alone(content) is None


def test_what_the_caller_says_of_the_context_decides_what_is_contrasted() -> None:
    letter = "Dear shop,\nI bought a lamp.\n\nWhen does it open?"
    assert question_alone(letter) == asked("When does it open?")
    assert question_alone(letter, False) is None
    assert question_alone("Context: open at nine.\n\nQuestion: When?", False) is None
    assert question_alone("Open at nine. When?", ["Open at nine. "]) == asked("When?")


def test_a_contrast_leaves_out_what_tools_found() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {}}}
    messages = [
        *asked("When does it open?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "At nine."},
    ]
    assert question_alone(messages) == asked("When does it open?")
