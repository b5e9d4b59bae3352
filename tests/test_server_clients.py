"""The clients that people have talk to the server as they talk to OpenAI's."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from server_models import SHOP, STORY
from server_process import KEY, ServerProcess, running

from steerable_llm.logs.answer_log import AnswerLog

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

WHEN: Any = [{"role": "user", "content": "When?"}]
WEATHER: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


class Shop(BaseModel):
    street: str
    opens: int


@pytest.fixture
def client(server: ServerProcess) -> OpenAI:
    with OpenAI(base_url=server.base, api_key=KEY, max_retries=0) as made:
        yield made


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_openai_gets_an_answer_with_its_tokens_and_what_was_applied(client: OpenAI) -> None:
    made = client.chat.completions.create(model="tiny:answer", messages=WHEN)
    assert made.choices[0].message.content == "At nine, as the documents say."
    assert made.choices[0].finish_reason == "stop"
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    told: Any = made.model_extra["steering"]  # type: ignore[index]
    assert told["step"] == "answer"
    assert [vector["name"] for vector in told["applied"]] == ["a"]
    assert told["applied"][0]["steered_tokens"] > 0
    assert told["reasons"][0] == "step 'answer'"


@pytest.mark.parametrize(
    "how",
    [
        {"model": "tiny:reply"},
        {"model": "tiny", "extra_body": {"steering": {"step": "reply"}}},
        {"model": "tiny:reply", "extra_body": {"steering": {"step": "reply"}}},
    ],
)
def test_a_step_is_named_by_the_model_or_beside_it(client: OpenAI, how: dict[str, Any]) -> None:
    made: Any = client.chat.completions.create(messages=WHEN, **how)
    assert [vector["name"] for vector in made.steering["applied"]] == ["b"]


def test_a_stream_is_the_whole_answer_in_pieces_and_its_last_chunks_tell_the_rest(
    client: OpenAI,
) -> None:
    whole: Any = client.chat.completions.create(model="tiny:answer", messages=user("Grüße"))
    chunks: list[Any] = list(
        client.chat.completions.create(
            model="tiny:answer", messages=user("Grüße"), stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert (
        "".join(pieces) == whole.choices[0].message.content == "Grüße aus Köln 👋, 你好\u2028Ende"
    )
    assert sum(map(bool, pieces)) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all("usage" in chunk.model_fields_set for chunk in chunks)  # null before the last
    assert chunks[-1].steering["applied"] == chunks[-2].steering["applied"]
    assert chunks[-1].steering == whole.steering
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


async def test_the_asynchronous_client_does_the_same(server: ServerProcess) -> None:
    async with AsyncOpenAI(base_url=server.base, api_key=KEY, max_retries=0) as client:
        whole = await client.chat.completions.create(model="tiny", messages=WHEN)
        stream = await client.chat.completions.create(model="tiny", messages=WHEN, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == whole.choices[0].message.content


def test_tools_are_called_and_their_results_read(client: OpenAI) -> None:
    asked = user("weather in Lyon?")
    made = client.chat.completions.create(model="tiny", messages=asked, tools=WEATHER)
    [choice] = made.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls or []
    assert (call.type, call.function.name) == ("function", "weather")  # type: ignore[union-attr]
    assert call.function.arguments == '{"city": "Lyon"}'  # type: ignore[union-attr]
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    after = client.chat.completions.create(
        model="tiny", messages=[*asked, choice.message, result], tools=WEATHER
    )
    assert after.choices[0].message.content == "It is sunny."


def test_streamed_calls_are_those_of_the_whole_answer(client: OpenAI) -> None:
    asked = user("weather in Lyon?")
    made = client.chat.completions.create(model="tiny", messages=asked, tools=WEATHER)
    with client.chat.completions.stream(model="tiny", messages=asked, tools=WEATHER) as stream:
        last = stream.get_final_completion()
    calls = last.choices[0].message.tool_calls or []
    whole = made.choices[0].message.tool_calls or []
    assert [(c.id, c.function.name, c.function.arguments) for c in calls] == [
        (c.id, c.function.name, c.function.arguments)  # type: ignore[union-attr]
        for c in whole
    ]
    assert last.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": WEATHER[0]["function"]}]
)
def test_a_call_can_be_made_sure(client: OpenAI, choice: Any) -> None:
    made = client.chat.completions.create(
        model="tiny", messages=user("weather?"), tools=WEATHER, tool_choice=choice
    )
    assert made.choices[0].finish_reason == "tool_calls"


def test_no_tools_are_shown_where_none_are_to_be_called(client: OpenAI) -> None:
    shown = client.chat.completions.create(model="tiny", messages=WHEN, tools=WEATHER)
    hidden = client.chat.completions.create(
        model="tiny", messages=WHEN, tools=WEATHER, tool_choice="none"
    )
    assert hidden.usage is not None
    assert shown.usage is not None
    assert hidden.usage.prompt_tokens < shown.usage.prompt_tokens


def test_structured_outputs_are_parsed(client: OpenAI) -> None:
    made = client.chat.completions.parse(
        model="tiny", messages=user("Which shop?"), response_format=Shop
    )
    assert made.choices[0].message.parsed == Shop(**SHOP)  # type: ignore[arg-type]


def test_json_mode_gives_json(client: OpenAI) -> None:
    made = client.chat.completions.create(
        model="tiny", messages=user("Which shop?"), response_format={"type": "json_object"}
    )
    assert Shop.model_validate_json(made.choices[0].message.content or "") == Shop(**SHOP)  # type: ignore[arg-type]


def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(client: OpenAI) -> None:
    made = client.chat.completions.create(model="tiny", messages=WHEN, stop=[", as"])
    assert made.choices[0].message.content == "At nine"
    assert made.choices[0].finish_reason == "stop"


def test_an_answer_that_is_cut_off_says_so(client: OpenAI) -> None:
    made = client.chat.completions.create(model="tiny", messages=user("story"), max_tokens=5)
    assert made.choices[0].finish_reason == "length"
    assert made.usage is not None
    assert made.usage.completion_tokens == 5


def test_an_answer_of_unsaid_length_is_not_cut_at_some_low_number(client: OpenAI) -> None:
    made = client.chat.completions.create(model="tiny", messages=user("story"))
    assert made.choices[0].message.content == STORY


def test_likelihoods_come_in_openais_form(client: OpenAI) -> None:
    def ask(stream: bool) -> Any:
        return client.chat.completions.create(
            model="tiny", messages=WHEN, logprobs=True, top_logprobs=2, max_tokens=3, stream=stream
        )

    content = ask(False).choices[0].logprobs.content
    assert [len(entry.top_logprobs) for entry in content] == [2, 2, 2]
    assert all(entry.logprob <= 0 for entry in content)
    told = [chunk.choices[0] for chunk in ask(True)]
    assert [one for each in told if each.logprobs for one in each.logprobs.content] == content
    # Each chunk tells of its own tokens, so that whoever reads along need not wait for the end.
    for each in told:
        if each.delta.content:
            assert "".join(one.token for one in each.logprobs.content) == each.delta.content


def test_likelihoods_of_a_streamed_completion_say_where_each_token_stands(client: OpenAI) -> None:
    fields: Any = {"model": "tiny", "prompt": "story", "max_tokens": 6, "logprobs": 1}
    whole = client.completions.create(**fields).choices[0]
    pieces = [piece.choices[0] for piece in client.completions.create(**fields, stream=True)]
    told = [piece.logprobs for piece in pieces if piece.logprobs]
    assert whole.logprobs is not None
    assert len(told) > 3
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [one for each in told for one in getattr(each, name)] == getattr(
            whole.logprobs, name
        )
    for token, offset in zip(whole.logprobs.tokens, whole.logprobs.text_offset, strict=True):
        assert whole.text[offset : offset + len(token)] == token


def test_a_seed_repeats_and_choices_differ(client: OpenAI, demo_server: ServerProcess) -> None:
    with OpenAI(base_url=demo_server.base, api_key=KEY) as demo:

        def ask(**more: Any) -> list[str | None]:
            made = demo.chat.completions.create(
                model="tiny", messages=user("What is the capital of France?"), temperature=2.0,
                max_tokens=12, n=3, **more,
            )  # fmt: skip
            assert [choice.index for choice in made.choices] == [0, 1, 2]
            return [choice.message.content for choice in made.choices]

        first = ask(seed=7)
        assert first == ask(seed=7)
        assert len(set(first)) == 3


def test_choices_are_streamed_side_by_side(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=WHEN, n=2, stream=True))
    for index in (0, 1):
        text = "".join(
            choice.delta.content or ""
            for chunk in chunks
            for choice in chunk.choices
            if choice.index == index
        )
        assert text == "At nine, as the documents say."


def test_a_completion_continues_its_prompt_without_the_template(client: OpenAI) -> None:
    made: Any = client.completions.create(
        model="tiny:answer", prompt=["When", "And When"], max_tokens=4, logprobs=1
    )
    assert [choice.index for choice in made.choices] == [0, 1]
    assert made.choices[0].logprobs.text_offset[0] == 0
    assert made.usage.prompt_tokens < 12  # no turns, no system message
    assert made.steering["applied"][0]["name"] == "a"
    pieces = client.completions.create(
        model="tiny:answer", prompt="When", max_tokens=4, stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == made.choices[0].text


def test_models_are_listed_with_their_steps(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["tiny", "tiny:plain", "tiny:answer", "tiny:reply"]
    assert client.models.retrieve("tiny:reply").id == "tiny:reply"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("huge")


def test_errors_are_those_that_the_client_knows(client: OpenAI, server: ServerProcess) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=WHEN, frequency_penalty=0.5)
    assert refused.value.param == "frequency_penalty"
    assert refused.value.code == "unsupported_parameter"
    with OpenAI(base_url=server.base, api_key="wrong") as stranger:
        with pytest.raises(openai.AuthenticationError, match="API key"):
            stranger.models.list()


# Frameworks that talk to servers like OpenAI's.


def test_langchains_model_answers_streams_calls_and_fills_objects(server: ServerProcess) -> None:
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=server.base, api_key=KEY, model="tiny:answer", stream_usage=True)
    assert chat.invoke("When?").content == "At nine, as the documents say."
    chunks = list(chat.stream("When?"))
    assert "".join(str(chunk.content) for chunk in chunks) == "At nine, as the documents say."
    assert any(chunk.usage_metadata for chunk in chunks)
    [call] = chat.bind_tools(WEATHER).invoke("weather in Lyon?").tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Lyon"})
    assert chat.with_structured_output(Shop).invoke("Which shop?") == Shop(**SHOP)  # type: ignore[arg-type]
    told: Any = chat.bind(logprobs=True, top_logprobs=1)
    whole = told.invoke("When?").response_metadata["logprobs"]["content"]
    read = [each.response_metadata.get("logprobs") for each in told.stream("When?")]
    assert [one for each in read if each for one in each["content"]] == whole
    assert sum(map(bool, read)) > 3
    reply = chat.bind(model="tiny", extra_body={"steering": {"step": "reply"}})
    assert reply.invoke("When?").content == "At nine, as the documents say."


async def test_langchains_model_answers_asynchronously(server: ServerProcess) -> None:
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=server.base, api_key=KEY, model="tiny")
    assert (await chat.ainvoke("When?")).content == "At nine, as the documents say."
    pieces = [str(chunk.content) async for chunk in chat.astream("When?")]
    assert "".join(pieces) == "At nine, as the documents say."


def test_llama_indexs_model_answers_and_streams(server: ServerProcess) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    llm = OpenAILike(
        api_base=server.base, api_key=KEY, model="tiny:answer", is_chat_model=True,
        is_function_calling_model=True, context_window=4096,
    )  # fmt: skip
    assert llm.complete("When?").text == "At nine, as the documents say."
    assert llm.chat([ChatMessage("When?")]).message.content == "At nine, as the documents say."
    assert list(llm.stream_complete("When?"))[-1].text == "At nine, as the documents say."


@pytest.mark.parametrize("kind", ["tiny", "tiny:answer"])
def test_open_webui_finds_the_models_and_reads_the_stream(
    server: ServerProcess, kind: Literal["tiny"]
) -> None:
    """It lists models below the base address, and takes a stream by its content type."""
    with server.http() as client:
        listed = client.get("/v1/models").json()
        assert kind in [model["id"] for model in listed["data"]]
        body = {
            "stream": True, "model": kind, "messages": WHEN, "params": {}, "tool_servers": [],
            "features": {"web_search": False}, "metadata": {"chat_id": "1"}, "session_id": "x",
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert '"usage":{"prompt_tokens":' in answer.text


def test_a_stream_ends_its_lines_as_openai_does(server: ServerProcess) -> None:
    """Small clients split at an empty line, and compare what is left with [DONE]."""
    with server.http() as client:
        body = {"stream": True, "model": "tiny", "messages": WHEN}
        answer = client.post("/v1/chat/completions", json=body)
    assert "\r" not in answer.text
    *events, end = answer.text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: {") for event in events)
    assert end == "data: [DONE]"


def test_litellms_call_is_answered(server: ServerProcess) -> None:
    """As `litellm.completion(model="openai/tiny", api_base=...)` sends it."""
    body = {
        "model": "tiny", "messages": WHEN, "max_retries": 0, "temperature": 0.2, "seed": 3,
        "steering": {"step": "answer"}, "user": "u", "metadata": {"team": "a"},
    }  # fmt: skip
    with server.http(headers={"User-Agent": "litellm/1.80"}) as client:
        made = client.post("/v1/chat/completions", json=body)
    assert made.json()["choices"][0]["message"]["content"] == "At nine, as the documents say."
    assert made.json()["steering"]["step"] == "answer"


# What the page on serving shows.

PAGE = Path(__file__).resolve().parent.parent / "docs" / "serving.md"
SHOWN = re.compile(r"^<!-- against a server -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"


def test_what_the_page_shows_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = SHOWN.findall(PAGE.read_text(encoding="utf-8"))
    assert [language for language, _ in shown] == ["bash", "python", "python"]
    with running(tmp_path, "demo", name="demo", api_keys=()) as server:
        names: dict[str, Any] = {}
        for language, code in shown:
            code = code.replace(ADDRESS, server.url)
            if language == "python":
                exec(compile(code, "serving.md", "exec", dont_inherit=True), names)
            elif which("curl"):
                ran = subprocess.run(["bash", "-c", code], capture_output=True, check=True)
                assert json.loads(ran.stdout)["steering"]["applied"]
        names["client"].close()
        log = AnswerLog(f"sqlite:///{tmp_path}/answers.db")
        assert log.count(verdict="bad") == 1
        log.close()
    assert "step 'answer'" in capsys.readouterr().out
