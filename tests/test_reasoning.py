"""Thinking models: what they think is told from what they say, wherever an answer goes."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from adapter_models import last, whole
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.base.llms.types import TextBlock, ThinkingBlock
from llama_index.core.llms import ChatMessage
from pydantic import BaseModel
from scripted import SPECIAL, TEMPLATES, byte_level, calling, scripted_around
from test_tool_calling import MULTIPLY

from steerable_llm.adapters.langchain.log import AnswerLogHandler
from steerable_llm.adapters.llama_index.log import record_answers
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.measure import answers, measure
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.recorder import AnswerRecorder

QUESTION = "What is two and two?"
THOUGHT = "Two and two.\n\nThat is four, or five?"
ANSWER = "Four. A tag such as <think> says that I think."
PLAIN = TEMPLATES["none"]
OPENING = PLAIN.replace("<|assistant|>{% endif %}", "<|assistant|><think>\n{% endif %}")
# As templates of models that think on demand have it, and leave thoughts out of a history or not.
HYBRID = PLAIN.replace(
    "<|assistant|>{% endif %}",
    "<|assistant|>{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>"
    "\n\n{% endif %}{% endif %}",
).replace(
    "{{- message.content }}",
    "{%- if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n"
    "{% endif %}{{- message.content }}",
)
HARMONY = (
    "<|bos|>{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}"
    "<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{% if loop.last and not add_generation_prompt %}<|return|>{% else %}<|end|>{% endif %}"
    "{% endfor %}{# <|channel|>analysis<|message|> #}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """How a kind of model thinks.

    Attributes:
        template: Its chat template.
        said: What it writes after the prompt.
        special: Tags that are special tokens.
        added: Tags that are tokens, and not special ones.
        tags: What is told of it beside that.
        end: The special token that ends a turn.
    """

    template: str
    said: str
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    response: dict[str, Any] | None = None
    end: str = "<|end|>"


TAGS = ("<think>", "</think>")
IN_TAGS = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
FAMILIES = {
    "on demand": Family(HYBRID, IN_TAGS, added=TAGS),
    "opened by the prompt": Family(OPENING, f"{THOUGHT}\n</think>\n\n{ANSWER}", added=TAGS),
    "special tags": Family(HYBRID, IN_TAGS, special=TAGS),
    "special and opened": Family(OPENING, f"{THOUGHT}</think>{ANSWER}", special=TAGS),
    "spelt tags": Family(OPENING + "{# </think> #}", f"{THOUGHT}\n</think>\n\n{ANSWER}"),
    "magistral": Family(
        PLAIN, f"[THINK]{THOUGHT}[/THINK]{ANSWER}", special=("[THINK]", "[/THINK]")
    ),
    "tags of its own": Family(
        PLAIN,
        f"<reason>{THOUGHT}</reason>{ANSWER}",
        options={"reasoning_tags": ("<reason>", "</reason>")},
    ),
    "response template": Family(
        PLAIN,
        f"<mull>{THOUGHT}</mull>\n{ANSWER}",
        special=("<mull>",),
        response={
            "fields": {
                "thinking": {"open_pattern": "<mull>", "close": ["</mull>", "<over/>"]},
                "content": {},
            }
        },
    ),
    "harmony": Family(
        HARMONY,
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final"
        f"<|message|>{ANSWER}",
        special=("<|start|>", "<|channel|>", "<|message|>", "<|return|>"),
        end="<|return|>",
    ),
}


def model_of(
    family: Family | str, said: str | Callable[[str], str] | None = None, **options: Any
) -> SteerableHFLLM:
    made = FAMILIES[family] if isinstance(family, str) else family
    tokenizer = byte_level(made.template, [*SPECIAL, *made.special], list(made.added), end=made.end)
    tokenizer.response_template = made.response
    say = said if callable(said) else lambda _: str(said or made.said)
    return scripted_around(tokenizer, say, **{**made.options, **options})


def told(message: Any) -> list[tuple[str, str]]:
    return [(block["type"], block[block["type"]]) for block in message.content_blocks]


APART = [("reasoning", THOUGHT), ("text", ANSWER)]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_reasoning_and_answer_come_apart(name: str) -> None:
    llm = model_of(name)
    answer = llm.generate(QUESTION, max_new_tokens=400)
    assert (answer.reasoning, answer.text) == (THOUGHT, ANSWER)
    assert answer.finish_reason == "stop"
    chunks = list(llm.stream(QUESTION, max_new_tokens=400))
    assert chunks[-1].final == answer
    assert "".join(chunk.reasoning for chunk in chunks) == THOUGHT
    assert "".join(chunk.text for chunk in chunks) == ANSWER
    reasoned = [bool(chunk.reasoning) for chunk in chunks if chunk.reasoning or chunk.text]
    assert reasoned == sorted(reasoned, reverse=True)
    assert sum(reasoned) > 5


@pytest.mark.filterwarnings("ignore:.*is in beta")
@pytest.mark.parametrize("name", ["on demand", "special and opened", "harmony"])
async def test_langchain_tells_them_in_its_standard_blocks(name: str) -> None:
    chat = model_of(name).as_langchain(max_tokens=400)
    answer = chat.invoke(QUESTION)
    assert (answer.content, answer.additional_kwargs["reasoning_content"]) == (ANSWER, THOUGHT)
    assert told(answer) == APART
    assert told(await chat.ainvoke(QUESTION)) == APART
    chunks = list(chat.stream(QUESTION))
    assert told(whole(chunks)) == APART
    # LangChain's own streams of blocks count those of each chunk.
    assert all(len({kind for kind, _ in told(chunk)}) <= 1 for chunk in chunks)
    assert told(whole([chunk async for chunk in chat.astream(QUESTION)])) == APART
    assert told(chat.with_config(tags=["x"]).invoke(QUESTION)) == APART
    blocks = model_of(name).as_langchain(max_tokens=400, output_version="v1").invoke(QUESTION)
    assert told(blocks) == APART
    events = chat.stream_events(QUESTION, version="v3")
    assert told(events.output) == APART


@pytest.mark.parametrize("name", ["on demand", "special and opened", "harmony"])
async def test_llama_index_tells_them_in_its_blocks(name: str) -> None:
    llm = model_of(name).as_llama_index(max_tokens=400)
    ask = [ChatMessage(QUESTION)]
    apart = [ThinkingBlock(content=THOUGHT), TextBlock(text=ANSWER)]
    pieces = list(llm.stream_chat(ask))
    later = await last(await llm.astream_chat(ask))
    for response in (llm.chat(ask), await llm.achat(ask), pieces[-1], later):
        assert response.message.blocks == apart
        assert response.message.content == ANSWER
    assert "".join(piece.delta or "" for piece in pieces) == ANSWER
    thoughts = [piece.additional_kwargs.get("thinking_delta", "") for piece in pieces]
    assert "".join(thoughts) == THOUGHT
    for piece in pieces:  # grown so far
        assert all(
            block.content and THOUGHT.startswith(block.content)
            for block in piece.message.blocks
            if isinstance(block, ThinkingBlock)
        )
    completion = llm.complete(QUESTION)
    assert (completion.text, completion.raw["reasoning"]) == (ANSWER, THOUGHT)
    assert list(llm.stream_complete(QUESTION))[-1].text == ANSWER
    written = llm.llm.render(QUESTION)
    assert llm.complete(written, formatted=True).text == ANSWER


@pytest.mark.parametrize("name", list(FAMILIES))
def test_who_is_cut_off_while_thinking_has_not_answered(name: str) -> None:
    llm = model_of(name)
    answer = llm.generate(QUESTION, max_new_tokens=26)
    assert answer.finish_reason == "length"
    assert answer.text == ""
    assert answer.reasoning
    assert THOUGHT.startswith(answer.reasoning)
    message = llm.as_langchain(max_tokens=26).invoke(QUESTION)
    assert told(message) == [("reasoning", answer.reasoning)]


def test_a_model_that_has_no_tags_quotes_them() -> None:
    plain = model_of(Family(PLAIN, IN_TAGS)).generate(QUESTION, max_new_tokens=400)
    assert (plain.text, plain.reasoning) == (IN_TAGS, None)
    off = model_of("on demand", reasoning_tags=()).generate(QUESTION, max_new_tokens=400)
    assert (off.text, off.reasoning) == (IN_TAGS, None)


@pytest.mark.parametrize(
    ("said", "apart"),
    [
        ("Four.", (None, "Four.")),
        ("  Four.", (None, "  Four.")),
        ("<thin ice", (None, "<thin ice")),
        ("<think></think>Four.", (None, "Four.")),
        ("<think>a</think>\n<think>b</think> Four.", ("a\nb", "Four.")),
        ("<think>a < b </thin ok</think>Four.", ("a < b </thin ok", "Four.")),
        ("<think>a</think>", ("a", "")),
        ("\n<think>\n</think>\n", (None, "")),
        ("So <think>a</think> it is.", (None, "So <think>a</think> it is.")),
    ],
)
@pytest.mark.parametrize("added", [TAGS, ()])
def test_where_reasoning_begins_and_ends(
    said: str, apart: tuple[str | None, str], added: tuple[str, ...]
) -> None:
    # Spelt or as one token, and wherever the stream is cut.
    family = Family(PLAIN, said, added=added, options={"reasoning_tags": TAGS})
    chunks = list(model_of(family).stream(QUESTION))
    final = chunks[-1].final
    assert final is not None
    assert (final.reasoning, final.text) == apart
    assert "".join(chunk.text for chunk in chunks) == apart[1]
    assert "".join(chunk.reasoning for chunk in chunks) == (apart[0] or "")


def test_stop_texts_end_the_answer_and_not_the_thinking() -> None:
    for name in ("on demand", "special and opened"):
        answer = model_of(name).generate(QUESTION, stop=["\n\n", " A tag"], max_new_tokens=400)
        assert (answer.reasoning, answer.text, answer.finish_reason) == (THOUGHT, "Four.", "stop")


# Forms and tools.


class Sum(BaseModel):
    total: int


def test_a_form_begins_after_the_thinking_that_the_prompt_has_opened() -> None:
    thinking = model_of("opened by the prompt", f'{THOUGHT}\n</think>{{"total": 4}}')
    read = thinking.as_langchain(max_tokens=400).with_structured_output(Sum)
    assert read.invoke(QUESTION) == Sum(total=4)
    raw = thinking.as_llama_index(max_tokens=400).as_structured_llm(Sum)
    assert raw.chat([ChatMessage(QUESTION)]).raw == Sum(total=4)
    # What else it would say is not said: the form holds from the answer's first token.
    chatty = model_of("opened by the prompt", f"{THOUGHT}\n</think>It is four.")
    made = chatty.as_langchain(max_tokens=400).with_structured_output(Sum, include_raw=True)
    raw_message = made.invoke(QUESTION)["raw"]
    assert raw_message.additional_kwargs["reasoning_content"] == THOUGHT
    assert raw_message.content.startswith('{"total": ')
    with pytest.raises(Exception, match="cut off after 10 tokens"):
        thinking.as_langchain(max_tokens=10).with_structured_output(Sum).invoke(QUESTION)


def test_a_form_holds_from_the_first_token_where_the_prompt_opens_no_thinking() -> None:
    llm = model_of("on demand", lambda _: '{"total": 4}')
    message = llm.as_langchain(max_tokens=60).with_structured_output(Sum, include_raw=True)
    found = message.invoke(QUESTION)
    assert (found["parsed"], found["raw"].additional_kwargs) == (Sum(total=4), {})


# A call that is sure is thought about where the prompt says so.
@pytest.mark.parametrize(("opened", "choice"), [(True, None), (True, "required"), (False, None)])
@pytest.mark.parametrize("special", [True, False])
def test_a_call_follows_the_thinking(opened: bool, special: bool, choice: str | None) -> None:
    thought = "Shall I write <tool_call>? I had better multiply."
    call = calling("multiply", {"a": 3, "b": 4})
    marks = ("<tool_call>", "</tool_call>")
    template = TEMPLATES["hermes"]
    if opened:
        template = template.replace("<|assistant|>{% endif %}", "<|assistant|><think>\n{% endif %}")
    family = Family(
        template,
        f"{'' if opened else '<think>'}{thought}</think>{call}",
        special=TAGS if special else (),
        added=marks if special else (*TAGS, *marks),
    )
    llm = model_of(family)
    answer = llm.generate(QUESTION, tools=[MULTIPLY], tool_choice=choice, max_new_tokens=400)
    assert [(made.name, made.arguments) for made in answer.tool_calls] == [
        ("multiply", {"a": 3, "b": 4})
    ]
    assert (answer.reasoning, answer.text) == (thought, "")
    bound = llm.as_langchain(max_tokens=400).bind_tools([MULTIPLY], tool_choice=choice)
    streamed = whole(list(bound.stream(QUESTION)))
    assert [(made["name"], made["args"]) for made in streamed.tool_calls] == [
        ("multiply", {"a": 3, "b": 4})
    ]
    assert streamed.additional_kwargs["reasoning_content"] == thought


# Histories.

SAID = [
    AIMessage("Four.", additional_kwargs={"reasoning_content": "2 + 2"}),
    AIMessage([{"type": "reasoning", "reasoning": "2 + 2"}, {"type": "text", "text": "Four."}]),
    AIMessage([{"type": "thinking", "thinking": "2 + 2"}, {"type": "text", "text": "Four."}]),
    AIMessage("<think>\n2 + 2\n</think>\n\nFour."),
    ChatMessage([ThinkingBlock(content="2 + 2"), TextBlock(text="Four.")], role="assistant"),
    {"role": "assistant", "content": "Four.", "reasoning_content": "2 + 2"},
    {"role": "assistant", "content": "Four.", "reasoning": "2 + 2"},
    {
        "role": "assistant",
        "content": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "2 + 2"}]},
            {"type": "text", "text": "Four."},
        ],
    },
]


def prompt_after(llm: SteerableHFLLM, said: Any) -> str:
    """The prompt that the model really reads after an answer."""
    if isinstance(said, AIMessage):
        llm.as_langchain(max_tokens=1).invoke([HumanMessage(QUESTION), said, HumanMessage("So?")])
    elif isinstance(said, ChatMessage):
        llm.as_llama_index(max_tokens=1).chat([ChatMessage(QUESTION), said, ChatMessage("So?")])
    else:
        turns = [{"role": "user", "content": text} for text in (QUESTION, "So?")]
        llm.generate([turns[0], said, turns[1]], max_new_tokens=1)
    [prompt] = llm.model.control.said
    return str(llm.tokenizer.decode(prompt))


@pytest.mark.parametrize("name", ["on demand", "special tags"])
@pytest.mark.parametrize("said", SAID, ids=range(len(SAID)))
def test_a_history_keeps_no_reasoning_unless_asked_for(name: str, said: Any) -> None:
    kept_out = prompt_after(model_of(name), said)
    assert "2 + 2" not in kept_out
    assert "<|assistant|>Four.<|end|>" in kept_out
    kept = prompt_after(model_of(name, keep_reasoning=True), said)
    assert "<|assistant|><think>\n2 + 2\n</think>\n\nFour.<|end|>" in kept


def test_an_answer_goes_back_into_the_conversation_as_it_came() -> None:
    llm = model_of("on demand")
    chat = llm.as_langchain(max_tokens=400)
    talk = [HumanMessage(QUESTION), chat.invoke(QUESTION), HumanMessage("Sure?")]
    assert told(chat.invoke(talk)) == APART
    assert chat.get_num_tokens_from_messages(talk) == len(
        llm.encode(
            [
                {"role": "user", "content": QUESTION},
                {"role": "assistant", "content": ANSWER},
                {"role": "user", "content": "Sure?"},
            ]
        )
    )


# Evaluation and logs.


@pytest.mark.parametrize("name", ["on demand", "special and opened", "harmony"])
def test_success_is_judged_on_the_answer_alone(name: str) -> None:
    items = [
        EvaluationItem(
            id="1",
            category="all",
            messages=[{"role": "user", "content": QUESTION}],
            accept=("Four",),
            reject=("five",),
        )
    ]
    llm = model_of(name)
    [[outcome]] = measure(llm, [Arm("none")], items, max_new_tokens=120)
    assert (outcome.text, outcome.success) == (ANSWER, 1.0)
    assert answers(llm, [(Arm("none"), items[0])], 120) == [ANSWER]
    [[cut]] = measure(llm, [Arm("none")], items, max_new_tokens=26)
    assert (cut.text, cut.success) == ("", 0.0)


@pytest.mark.parametrize("streamed", [True, False])
def test_the_log_keeps_them_apart(log_url: str, streamed: bool) -> None:
    llm = model_of("on demand")
    recorder = AnswerRecorder(log_url)
    handler = AnswerLogHandler(recorder)
    chat = llm.as_langchain(max_tokens=400, streaming=streamed)
    chat.invoke(QUESTION, {"callbacks": [handler]})
    spans = record_answers(recorder)
    try:
        other = llm.as_llama_index(max_tokens=400)
        if streamed:
            list(other.stream_chat([ChatMessage(QUESTION)]))
        else:
            other.chat([ChatMessage(QUESTION)])
        other.complete(QUESTION, chat_template_kwargs={"enable_thinking": True})
    finally:
        spans.stop()
    assert recorder.flush()
    recorder.close()
    with AnswerLog(log_url) as log:
        found = list(log.answers())
    assert [(each.answer, each.reasoning) for each in found] == [(ANSWER, THOUGHT)] * 3
    given = [each.chat_template_kwargs for each in found]
    assert given == [None, None, {"enable_thinking": True}]
    # What the template was told is part of what was asked.
    assert len({each.prompt_key for each in found}) == 2
    assert json.loads(found[0].model_dump_json())["reasoning"] == THOUGHT


def test_a_model_that_keeps_its_thoughts_shares_no_cached_answers_with_one_that_does_not() -> None:
    plain, keeping = (
        SteerableHFLLM.demo(keep_reasoning=keep).as_langchain() for keep in (False, True)
    )
    assert plain._get_llm_string() != keeping._get_llm_string()


def test_what_is_encoded_is_what_is_rendered_also_of_thoughts_within_answers() -> None:
    llm = model_of("on demand")
    said = "<think>One.</think>It writes <think>two</think> so."
    history = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "And?"},
    ]
    rendered = llm.render(history)
    assert "<think>two</think>" in rendered
    assert "One." not in rendered
    assert llm.tokenizer.decode(llm.encode(history)) == rendered
