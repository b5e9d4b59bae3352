"""Which part of a prompt each token belongs to."""

import pytest

from steerable_llm.chat.message import as_messages
from steerable_llm.methods.grains.objective import prompt_tokens, user_parts

RAG = "Documents:\n[1] The shop in Köln opens at nine.\n\nQuestion: When does the shop open?"


def part_texts(prompt):
    joined = {}
    for text, segment in zip(prompt.texts, prompt.segments, strict=True):
        joined[segment] = joined.get(segment, "") + text
    return joined


def test_system_context_and_question_are_told_apart(tiny_llm):
    messages = as_messages(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": RAG}]
    )
    prompt = prompt_tokens(tiny_llm, messages)
    parts = part_texts(prompt)
    assert parts["system"] == "Be kind."
    assert parts["question"] == "Question: When does the shop open?"
    assert parts["context"].strip() == RAG.split("\n\nQuestion")[0]
    assert "".join(prompt.texts) == tiny_llm.render(messages)
    assert list(prompt.ids) == tiny_llm.encode(messages)
    assert list(prompt.is_template) == tiny_llm.special_token_mask(messages)
    told = [segment == "template" for segment in prompt.segments]
    assert told == list(prompt.is_template)


@pytest.mark.parametrize(
    ("content", "segments"),
    [
        ("When?", ["question"]),
        ("[1] Text.\nQuestion: When?", ["context", "question"]),
        (
            "Answer briefly.\nContext: [1] Text.\nQuestion: When?",
            ["question", "context", "question"],
        ),
        ("Question: When?\n\nPassages:\n[1] Text.", ["question", "context"]),
        ("He asked a question: when?", ["question"]),
        ("Use the text.\n- The shop opens at nine.\n\nWhen?", ["context", "question"]),
        ("When?\n\nThe shop opens at nine.", ["question", "context"]),
        ("<context>\nText.\n</context>\n\nWhen?", ["context", "question"]),
        ("Read.\n<docs>", ["question"]),
        (
            "<documents><document>A.</document>\n<document>B.</document></documents>\nWhen?",
            ["context", "question"],
        ),
        ("Answer.\n<context>\nText.\n</context>", ["question", "context"]),
    ],
)
def test_markers_open_the_parts_of_a_user_message(content, segments):
    assert [segment for _, segment in user_parts(content)] == segments
