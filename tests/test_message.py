"""One message for whatever is asked, logged, paired and evaluated: its forms, and its images."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import BaseModel

from steerable_llm.chat.images import PLACE
from steerable_llm.chat.message import Message, ToolCall, as_messages, kept_in, read_from
from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import LoggedAnswer, read_answers, write_answers
from steerable_llm.pairs.pair import Pairs, PreferencePair

CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"place": "Köln"}}}
TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "When does it open?", "name": "Ann"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "At nine."},
]


def picture(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (4, 3), colour)


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def about(image: Any) -> list[dict[str, Any]]:
    parts = [
        {"type": "text", "text": "See "},
        {"type": "image", "image": image},
        {"type": "text", "text": "this."},
    ]
    return [{"role": "user", "content": parts}]


def test_a_string_is_one_user_message() -> None:
    assert as_messages("Hi") == (Message(role="user", content="Hi"),)


def test_a_message_can_stand_for_a_dict() -> None:
    message = Message(role="system", content="Be kind.")
    assert {**message} == {"role": "system", "content": "Be kind."}
    assert message["role"] == "system"
    with pytest.raises(KeyError):
        message["name"]
    assert message.model_dump_json() == '{"role":"system","content":"Be kind."}'


def test_tool_turns_are_read_as_they_are_written_in_both_forms() -> None:
    messages = as_messages(TURNS)
    assert messages[2].tool_calls == (ToolCall("1", "look", {"place": "Köln"}),)
    assert messages[3].name == "look"
    assert as_messages([{**message} for message in messages]) == messages
    written = json.loads(json.dumps([message.to_wire() for message in messages]))
    assert written[2]["tool_calls"][0]["function"]["arguments"] == '{"place": "Köln"}'
    assert as_messages(written) == messages
    assert len({messages, as_messages(TURNS)}) == 1


def test_a_person_is_shown_images_and_calls_in_words() -> None:
    messages = as_messages([*TURNS, *about("shop.png")])
    assert [message.in_words for message in messages] == [
        "Be kind.",
        "When does it open?",
        '[look {"place": "Köln"}]',
        "At nine.",
        "See [image shop.png]this.",
    ]


def test_images_keep_their_places_among_the_texts() -> None:
    (message,) = as_messages(about("shop.png"))
    assert message.content == "See this."
    assert message.marked == f"See {PLACE}this."
    assert message.with_text(f"{PLACE}!").marked == f"{PLACE}!"
    assert message.with_text("cut").marked == f"{PLACE}cut"
    assert message["content"][1] == {"type": "image", "image": "shop.png"}
    assert message.to_wire()["content"][1]["image_url"] == {"url": "shop.png"}


def test_the_same_image_is_equal_in_whatever_form_it_is_held() -> None:
    data = png(picture())
    (held,) = as_messages(about(data))
    assert as_messages([held.to_wire()]) == (held,)
    assert as_messages(about(picture())) == (held,)
    assert as_messages(about(picture("blue"))) != (held,)
    assert as_messages(about("shop.png")) != (held,)


@pytest.mark.parametrize("image", [picture(), png(picture())], ids=["PIL", "bytes"])
def test_a_files_images_stand_beside_it(tmp_path: Path, image: Any) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    messages = as_messages(about(image))
    written = json.loads(json.dumps(kept_in(first, messages)))
    [file] = (first / "images").iterdir()
    assert written[0]["content"][1]["image_url"]["url"] == f"images/{file.name}"
    read = read_from(first, as_messages(written))
    assert read == messages
    assert read[0].images[0].where == file
    # Written into another folder, the image goes along.
    assert kept_in(second, read) == written
    assert (second / "images" / file.name).read_bytes() == file.read_bytes()
    assert read_from(second, as_messages(written)) == messages


def test_paths_are_kept_and_start_where_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "shop.png").write_bytes(png(picture()))
    [message] = read_from(tmp_path, as_messages(about("shop.png")))
    assert message.images[0].where == tmp_path / "shop.png"
    assert kept_in(tmp_path, [message])[0]["content"][1]["image_url"]["url"] == "shop.png"
    elsewhere = kept_in(tmp_path / "other", [message])[0]["content"][1]["image_url"]["url"]
    assert elsewhere == str(tmp_path / "shop.png")
    assert not (tmp_path / "other").exists()


def test_a_path_that_only_looks_like_a_kept_image_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(picture()))
    (tmp_path / "images").mkdir()
    name = "images/../secret.png"
    [message] = read_from(tmp_path, as_messages(about(name)))
    kept_in(tmp_path / "out" / "deep", [message])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["id", "name", "arguments"])
def test_half_a_character_in_a_call_is_refused_at_once(place: str) -> None:
    call = {"id": "1", "name": "look", "arguments": {"shop": "Köln"}}
    call[place] = {"shop": ["\ud83d"]} if place == "arguments" else "\ud83d"
    with pytest.raises(InvalidInputError, match="half a character"):
        as_messages([{"role": "assistant", "tool_calls": [ToolCall(**call)]}])


class Holder(BaseModel):
    messages: tuple[Message, ...]


def test_messages_are_fields_of_other_models() -> None:
    holder = Holder(messages=as_messages([*TURNS, *about(png(picture()))]))
    assert Holder.model_validate_json(holder.model_dump_json()) == holder
    assert Holder.model_validate(holder.model_dump()) == holder


def test_pairs_hold_tool_turns_and_images_through_a_file(tmp_path: Path) -> None:
    pairs = Pairs([PreferencePair([*TURNS, *about(picture())], "Yes.", "No.")])
    read = Pairs.from_jsonl(pairs.to_jsonl(tmp_path / "pairs.jsonl"))
    assert read == pairs
    assert (read.digest, read[0].id) == (pairs.digest, pairs[0].id)
    assert len(read[0].images) == 1
    again = Pairs.from_jsonl(read.to_jsonl(tmp_path / "more" / "pairs.jsonl"))
    assert again.digest == pairs.digest
    assert again[0].images[0].where.is_file()


def test_evaluation_items_and_logged_answers_hold_them_too(tmp_path: Path) -> None:
    messages = as_messages([*TURNS, *about(picture())])
    item = EvaluationItem(id="a", category="b", messages=messages, accept=("x",))
    items = EvaluationSet("set", [item])
    read = EvaluationSet.from_jsonl(items.to_jsonl(tmp_path / "set.jsonl"))
    assert (read, read.digest) == (items, items.digest)
    answer = LoggedAnswer(id="a", question="q", messages=messages, answer="Yes.")
    assert read_answers(write_answers(tmp_path / "log.jsonl", [answer])) == [answer]
    assert len(list((tmp_path / "images").iterdir())) == 1
    with AnswerLog(f"sqlite:///{tmp_path / 'answers.db'}") as log:
        log.add([answer])
        assert list(log.answers()) == [answer]
        log.add([read_answers(tmp_path / "log.jsonl")[0].model_copy(update={"id": "b"})])
        assert [entry.messages for entry in log.answers()] == [messages, messages]
    (tmp_path / "images").rename(tmp_path / "gone")  # the database needs no files
    with AnswerLog(f"sqlite:///{tmp_path / 'answers.db'}") as log:
        assert [entry.messages[-1].images[0].data for entry in log.answers()] == [
            png(picture()), png(picture())
        ]  # fmt: skip


def test_text_pairs_have_the_id_and_the_digest_that_they_always_had(tmp_path: Path) -> None:
    old = (
        '{"bad": "Paris", "document_ids": ["d"], "good": "Lyon", "id": "", "images": [], '
        '"messages": [{"content": "Wo, Köln?", "role": "user"}], "source": "s"}\n'
    )
    (tmp_path / "old.jsonl").write_text(old)
    pairs = Pairs.from_jsonl(tmp_path / "old.jsonl")
    assert pairs[0].id == "d561070200a2"
    assert pairs.digest == "10dfa455fcf32b8bd36d81f073eedc0589ab233c82ef26bc83391616e85cb7a6"


def test_images_beside_the_messages_of_an_old_file_become_parts(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "See this."}]
    old = {"messages": messages, "good": "x", "bad": "y", "images": ["a.png"]}
    (tmp_path / "old.jsonl").write_text(json.dumps(old))
    (tmp_path / "a.png").write_bytes(png(picture()))
    [pair] = Pairs.from_jsonl(tmp_path / "old.jsonl")
    assert pair.messages[0].marked == f"{PLACE}See this."
    assert pair.images[0].where == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"role": "robot", "content": "x"}, "its role is 'robot'"),
        ({"role": "user"}, "its content is None"),
        ({"role": "user", "content": "x", "nmae": "y"}, "user messages have no 'nmae'"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "have no 'tool_calls'"),
        ({"role": "tool", "content": "x"}, "needs the tool_call_id"),
        ({"role": "assistant", "tool_calls": [{"name": "f"}]}, "a tool call is"),
        (
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "f", "arguments": "{"}}],
            },
            "the arguments of a call to 'f' are not valid JSON",
        ),
        ({"role": "system", "content": about("x.png")[0]["content"]}, "hold no images"),
        ({"role": "user", "content": [{"type": "audio"}]}, "a part of type 'audio'"),
        (3, "a message is"),
    ],
)
def test_malformed_messages_are_refused_in_one_line(message: Any, why: str) -> None:
    with pytest.raises(InvalidInputError, match=r"message 1 of the prompt is not valid") as told:
        as_messages([TURNS[0], message])
    assert why in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(PairError, match="message 1"):
        PreferencePair([TURNS[0], message], "good", "bad")
