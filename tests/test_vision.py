"""Images in messages: what a vision-language model sees, steered and not, by every way in."""

from __future__ import annotations

import base64
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_models import random_vector
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from PIL import Image
from slow_vision import slow_inputs
from vision_models import VISION_FAMILIES, vision_llm

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.context import question_alone
from steerable_llm.chat.images import PLACE
from steerable_llm.chat.message import as_messages
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.divergence import KlMeter
from steerable_llm.evaluation.measure import answers, measure
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.policy.policy import Policy
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Steering

TOKENS = 8
ASKED = "What is on it?"


def picture(seed: int = 0) -> Image.Image:
    noise = torch.rand((50, 40, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray((noise * 255).to(torch.uint8).numpy())


def file_bytes(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def about(image: Any, text: str = ASKED) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": image}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module")
def llms() -> dict[str, SteerableHFLLM]:
    return {family: vision_llm(family) for family in VISION_FAMILIES}


@pytest.fixture(params=list(VISION_FAMILIES))
def llm(request: pytest.FixtureRequest, llms: dict[str, SteerableHFLLM]) -> SteerableHFLLM:
    return llms[request.param]


@pytest.fixture
def llava(llms: dict[str, SteerableHFLLM]) -> SteerableHFLLM:
    return llms["llava"]


def under(policy: Policy, llm: SteerableHFLLM) -> SteerableHFLLM:
    processor = llm.chat_format.vision.processor  # type: ignore[union-attr]
    return SteerableHFLLM(
        llm.model, llm.tokenizer, policy=policy, processor=processor, model_id=llm.model_id
    )


def by_transformers(llm: SteerableHFLLM, messages: Any) -> dict[str, Any]:
    """The inputs as transformers itself makes them, from its own chat template call."""
    processor = llm.chat_format.vision.processor  # type: ignore[union-attr]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    images = [p["image"] for m in messages for p in m["content"] if p["type"] == "image"]
    return dict(processor(text=text, images=images, return_tensors="pt", add_special_tokens=False))


def test_the_model_answers_as_transformers_lets_it_answer(llm: SteerableHFLLM) -> None:
    inputs = by_transformers(llm, about(picture()))
    expected = llm.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    answer = llm.generate(about(picture()), max_new_tokens=TOKENS)
    read = inputs["input_ids"].shape[1]
    assert answer.usage.prompt_tokens == read
    assert list(answer.token_ids) == expected[0, read:].tolist()


def test_the_model_sees_the_image(llm: SteerableHFLLM) -> None:
    seen = [llm.answer_logits(about(picture(seed)), "A shop.") for seed in (0, 1)]
    assert not torch.allclose(seen[0], seen[1], atol=1e-4)


def test_an_answer_about_an_image_is_scored_as_the_forward_pass_has_it(llm: SteerableHFLLM) -> None:
    inputs = by_transformers(llm, about(picture()))
    answer = llm.encode_answer("A shop in Lyon.")
    read = inputs["input_ids"].shape[1]
    whole = torch.cat([inputs.pop("input_ids"), torch.tensor([answer])], dim=1)
    del inputs["attention_mask"]
    for kinds in ("token_type_ids", "mm_token_type_ids"):
        if kinds in inputs:
            inputs[kinds] = torch.nn.functional.pad(inputs[kinds], (0, len(answer)))
    with torch.no_grad():
        logits = llm.model(input_ids=whole, **inputs).logits
    expected = torch.log_softmax(logits[0, read - 1 : -1], -1)
    total = sum(float(expected[place, token]) for place, token in enumerate(answer))
    [scored] = llm.score(about(picture()), ["A shop in Lyon."])
    assert scored == pytest.approx(total, abs=1e-3)


def test_steering_reaches_the_image_and_the_words(llm: SteerableHFLLM) -> None:
    steering = random_vector(llm, "a", 0).steer(2.0, scope="all")
    plain = llm.generate(about(picture()), max_new_tokens=TOKENS)
    steered = llm.generate(about(picture()), steering, max_new_tokens=TOKENS)
    assert steered.token_ids != plain.token_ids
    # Every token of the prompt, the image's among them, and every answer token that is read again.
    [applied] = steered.steered
    read_again = steered.usage.completion_tokens - 1
    assert applied.steered_tokens == steered.usage.prompt_tokens + read_again
    unmoved = random_vector(llm, "a", 0).steer(0.0, scope="all")
    still = llm.generate(about(picture()), unmoved, max_new_tokens=TOKENS)
    assert still.token_ids == plain.token_ids


def test_a_batch_of_texts_and_images_answers_as_one_by_one(llm: SteerableHFLLM) -> None:
    steering = random_vector(llm, "a", 1).steer(1.0)
    requests = [
        GenerationRequest(messages, given, max_new_tokens=TOKENS)
        for messages in ("Hello", about(picture(0)), "When does the shop open?", about(picture(1)))
        for given in (Steering.none(), steering)
    ]
    together = llm.generate_batch(requests)
    alone = [llm.generate_batch([request])[0] for request in requests]
    assert [x.token_ids for x in together] == [x.token_ids for x in alone]


def test_threads_do_not_take_each_others_images(llm: SteerableHFLLM) -> None:
    prompts = [about(picture(0)), "Hello", about(picture(1), "And a longer question on it?")]
    expected = [llm.generate(prompt, max_new_tokens=TOKENS).text for prompt in prompts]
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda p: llm.generate(p, max_new_tokens=TOKENS).text, prompts * 4))
    assert made == expected * 4


def test_prompts_of_a_model_with_images_take_turns(
    llms: dict[str, SteerableHFLLM],
) -> None:
    # Qwen2-VL keeps a prompt's positions on itself from its first pass to its last.
    llm, passes = llms["qwen2_vl"], []

    def seen(*_: Any) -> None:
        passes.append(threading.get_ident())
        time.sleep(0.002)  # whoever else may run would now do so

    hook = llm.blocks[0].register_forward_pre_hook(seen)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda p: llm.generate(p, max_new_tokens=TOKENS), [about(picture())] * 4))
    finally:
        hook.remove()
    switches = sum(one != next_one for one, next_one in pairwise(passes))
    assert switches <= 3


def test_a_stream_about_an_image_is_its_answer(llm: SteerableHFLLM) -> None:
    chunks = list(llm.stream(about(picture()), max_new_tokens=TOKENS))
    assert "".join(chunk.text for chunk in chunks) == (
        llm.generate(about(picture()), max_new_tokens=TOKENS).text
    )


def test_an_image_may_come_in_many_forms(llava: SteerableHFLLM, tmp_path: Path) -> None:
    file = tmp_path / "shop.png"
    file.write_bytes(file_bytes(picture()))
    data = base64.b64encode(file_bytes(picture())).decode()
    expected = llava.answer_logits(about(picture()), "A shop.")
    url = f"data:image/png;base64,{data}"
    forms: list[dict[str, Any]] = [
        *({"type": "image", "image": x} for x in (file_bytes(picture()), file, str(file), url)),
        {"type": "image", "path": str(file)},
        {"type": "image", "base64": data, "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
    ]
    for form in forms:
        content = [form, {"type": "text", "text": ASKED}]
        seen = llava.answer_logits([{"role": "user", "content": content}], "A shop.")
        assert torch.equal(seen, expected), form


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"no picture", r"image 0 of the prompt cannot be read"),
        ("/nowhere/shop.png", r"image 0 .*cannot be read .*shop.png"),
        ("data:text/plain;base64,aGVsbG8=", "cannot be read"),
        (None, "message 0 .* type 'image' that cannot be read"),
    ],
)
def test_an_image_that_is_none_is_refused_in_one_line(
    llava: SteerableHFLLM, image: Any, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said) as told:
        llava.generate(about(image))
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500


def test_what_a_processor_gives_and_a_model_would_not_get_is_refused(
    llava: SteerableHFLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = llava.chat_format.vision.processor
    call = type(processor).__call__

    def in_lists(self: Any, *args: Any, **options: Any) -> Any:
        return {**(read := call(self, *args, **options)), "pixel_values": [[read["pixel_values"]]]}

    monkeypatch.setattr(type(processor), "__call__", in_lists)
    with pytest.raises(InvalidInputError, match="gives pixel_values as a list"):
        llava.generate(about(picture()))


def test_a_model_of_text_says_that_it_reads_no_images(tiny_llm: SteerableHFLLM) -> None:
    assert not tiny_llm.supports_images
    with pytest.raises(InvalidInputError, match=r"message 0 holds an image: .* reads text only"):
        tiny_llm.generate(about(picture()))


def test_parts_that_are_all_text_are_read_by_every_model(tiny_llm: SteerableHFLLM) -> None:
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "the shop?"}]
    assert tiny_llm.encode([{"role": "user", "content": parts}]) == tiny_llm.encode(
        "Where is the shop?"
    )


def test_words_that_look_like_an_images_place_are_none(llava: SteerableHFLLM) -> None:
    once = llava.generate(about(picture(), ASKED), max_new_tokens=TOKENS)
    odd = llava.generate(about(picture(), f"{PLACE}{ASKED}"), max_new_tokens=TOKENS)
    assert odd.token_ids == once.token_ids


MARKS = {
    "llava": ["<image>"],
    "gemma3": ["<start_of_image>", "<image_soft_token>"],
    "qwen2_vl": ["<|image_pad|>"],
}


@pytest.mark.parametrize(("family", "mark"), [(f, m) for f, marks in MARKS.items() for m in marks])
def test_words_that_spell_the_models_own_mark_are_told_and_read_without_images(
    llms: dict[str, SteerableHFLLM], family: str, mark: str
) -> None:
    earlier = [{"role": "user", "content": f"What is {mark}?"}]
    turn = [*earlier, {"role": "assistant", "content": "A mark."}]
    with pytest.raises(InvalidInputError, match=f"message 0 spells .*{re.escape(mark)}"):
        llms[family].generate([*turn, *about(picture())], max_new_tokens=TOKENS)
    assert llms[family].generate(earlier, max_new_tokens=TOKENS).token_ids


def test_a_contrast_leaves_the_image_on_both_sides(llm: SteerableHFLLM) -> None:
    text = "Context:\nThe shop is in Lyon.\n\nQuestion: Where is it?"
    contrast = Contrast("cad", 0.5)
    answer = llm.generate(about(picture(), text), contrast=contrast, max_new_tokens=TOKENS)
    ids: list[int] = []
    asked = as_messages(about(picture(), text))
    bare = question_alone(asked)
    assert bare is not None
    assert bare[0].images == asked[0].images
    for token in answer.token_ids:
        with torch.no_grad():
            full, without = (
                llm.model(**slow_inputs(llm, messages, ids)).logits[0, -1]
                for messages in (asked, bare)
            )
        assert int((1.5 * full - 0.5 * without).argmax()) == token
        ids.append(token)
    plain = llm.generate(about(picture()), contrast=contrast, max_new_tokens=TOKENS)
    assert plain.token_ids == llm.generate(about(picture()), max_new_tokens=TOKENS).token_ids


def test_a_prompt_with_its_image_that_does_not_fit_is_refused(llava: SteerableHFLLM) -> None:
    with pytest.raises(InvalidInputError, match="context window"):
        llava.generate(about(picture()), max_new_tokens=llava.context_window - 20)


def test_a_saved_model_with_its_processor_reads_images(
    llava: SteerableHFLLM, tmp_path: Path
) -> None:
    llm = llava
    llm.model.save_pretrained(tmp_path)
    llm.chat_format.vision.processor.save_pretrained(tmp_path)  # type: ignore[union-attr]
    loaded = SteerableHFLLM.from_pretrained(tmp_path)
    assert loaded.supports_images
    made = loaded.generate(about(picture()), max_new_tokens=TOKENS)
    assert made.token_ids == llm.generate(about(picture()), max_new_tokens=TOKENS).token_ids


def test_without_a_processor_it_reads_text_and_says_so(
    llms: dict[str, SteerableHFLLM], tmp_path: Path
) -> None:
    llm = llms["gemma3"]
    llm.model.save_pretrained(tmp_path)
    llm.tokenizer.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="messages with images will be refused"):
        loaded = SteerableHFLLM.from_pretrained(tmp_path)
    assert not loaded.supports_images
    assert loaded.generate("Hello", max_new_tokens=TOKENS).token_ids == (
        llm.generate("Hello", max_new_tokens=TOKENS).token_ids
    )


def test_the_conflict_with_memory_is_measured_with_the_image_on_both_sides(
    llava: SteerableHFLLM,
) -> None:
    vector = random_vector(llava, "a", 0)
    step = {
        "vectors": [{"name": "a", "strength": 1.0}],
        "when": {"conflict": {"above": -1000.0}},
    }
    policy = Policy.from_dict({"default_step": "answer", "steps": {"answer": step}}, {"a": vector})
    text = "Context:\nThe shop is in Lyon.\n\nQuestion: Where is the shop?"
    answer = under(policy, llava).generate(about(picture(), text), max_new_tokens=TOKENS)
    assert [applied.name for applied in answer.steered] == ["a"]
    assert "conflict" in str(answer.decision)


def test_every_token_of_a_prompt_with_an_image_has_its_part(llm: SteerableHFLLM) -> None:
    text = "Context:\nThe shop is in Lyon.\n\nQuestion: Where is it?"
    answered = {"role": "assistant", "content": [{"type": "text", "text": "A shop."}]}
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    messages = [system, *about(picture(0)), answered, *about(picture(1), text)]
    told = llm.chat_format.tokens(messages)
    assert list(told.ids) == llm.encode(messages)
    patch = llm.model.config.image_token_id
    assert [part == "image" for part in told.segments] == [token == patch for token in told.ids]
    for part, expected in {
        "system": "Be brief.",
        "context": "Context:\nThe shop is in Lyon.\n\n",
        "question": f"{ASKED}Question: Where is it?",
        "assistant": "A shop.",
    }.items():
        found = zip(told.texts, told.segments, strict=True)
        assert "".join(text for text, own in found if own == part) == expected
    mask = llm.chat_format.special_token_mask(messages)
    assert len(mask) == len(told.ids)
    assert mask == [part == "template" for part in told.segments]


def test_pieces_lie_in_the_picture_that_the_model_saw(llm: SteerableHFLLM) -> None:
    told = llm.chat_format.tokens([*about(picture(0)), *about(picture(1), "And on this?")])
    image = [place for place, part in enumerate(told.segments) if part == "image"]
    assert [place for each in told.pieces for place in each.places] == image
    for number, each in enumerate(told.pieces):
        height, width = len(each.rows), len(each.rows[0])
        assert each.lie_known
        assert all(len(row) == width for row in each.rows)
        if llm.model_id == "qwen2_vl":  # the whole picture, of 50 rows of 40 pixels
            _, high, wide = told.vision["image_grid_thw"][number].tolist()
            assert (height, width) == (high // 2, wide // 2)
            assert each.size == (40, 50)
        else:  # cut or stretched to a square
            assert height == width
            assert each.size == (32, 32)


# The frameworks.


def langchain_blocks() -> list[dict[str, Any]]:
    data = base64.b64encode(file_bytes(picture())).decode()
    return [
        {"type": "image", "base64": data, "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "image", "source_type": "base64", "data": data, "mime_type": "image/png"},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": data},
        },
    ]


@pytest.mark.parametrize("block", langchain_blocks(), ids=["v1", "openai", "v0", "anthropic"])
def test_langchain_messages_bring_images(llava: SteerableHFLLM, block: dict[str, Any]) -> None:
    expected = llava.generate(
        [{"role": "system", "content": "Be brief."}, *about(picture())], max_new_tokens=TOKENS
    )
    chat = llava.as_langchain(max_tokens=TOKENS)
    message = HumanMessage([block, {"type": "text", "text": ASKED}])
    answer = chat.invoke([SystemMessage("Be brief."), message])
    assert answer.content == expected.text
    assert answer.usage_metadata["input_tokens"] == expected.usage.prompt_tokens
    assert chat.profile["image_inputs"]
    assert chat.get_num_tokens_from_messages([message]) == len(llava.encode(about(picture())))


async def test_langchain_steers_and_streams_about_images(llava: SteerableHFLLM) -> None:
    vector = random_vector(llava, "a", 0)
    step = {"vectors": [{"name": "a", "strength": 2.0}]}
    policy = Policy.from_dict({"default_step": "answer", "steps": {"answer": step}}, {"a": vector})
    chat = under(policy, llava).as_langchain(max_tokens=TOKENS)
    message = HumanMessage([*langchain_blocks()[:1], {"type": "text", "text": ASKED}])
    answer = await chat.ainvoke([message])
    assert [x["name"] for x in answer.response_metadata["steering"]] == ["a"]
    pieces = [chunk.text async for chunk in chat.astream([message])]
    assert "".join(pieces) == answer.text
    assert answer.text != llava.generate(about(picture()), max_new_tokens=TOKENS).text


@pytest.mark.parametrize("address", ["file:///etc/hostname", "/etc/hostname", "etc/hostname"])
def test_langchain_messages_cannot_read_files(llava: SteerableHFLLM, address: str) -> None:
    chat = llava.as_langchain(max_tokens=TOKENS)
    by_url = {"type": "image", "url": address}
    for block in (by_url, {"type": "image_url", "image_url": {"url": address}}):
        with pytest.raises(InvalidInputError, match="message 0 holds a content block"):
            chat.invoke([HumanMessage([block])])


@pytest.mark.parametrize("key", ["path", "image", "image_url"])
def test_a_block_with_an_image_and_a_path_is_the_image(
    llava: SteerableHFLLM, key: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret.png"
    file.write_bytes(file_bytes(picture(seed=1)))
    chat = llava.as_langchain(max_tokens=TOKENS)
    for given in (
        langchain_blocks()[0],
        {"type": "image", "url": langchain_blocks()[1]["image_url"]["url"]},
    ):
        block = {**given, key: str(file)}
        answer = chat.invoke([HumanMessage([block, {"type": "text", "text": ASKED}])])
        assert answer.content == llava.generate(about(picture()), max_new_tokens=TOKENS).text


@pytest.mark.parametrize("kind", [SystemMessage, AIMessage])
def test_images_have_their_place_in_messages_of_the_user(
    llava: SteerableHFLLM, kind: type[BaseMessage]
) -> None:
    chat = llava.as_langchain(max_tokens=TOKENS)
    with pytest.raises(InvalidInputError, match=r"message 0 .* image.* messages? of the user"):
        chat.invoke([kind(langchain_blocks()[:1]), HumanMessage(ASKED)])


def test_llama_index_messages_bring_images(llava: SteerableHFLLM, tmp_path: Path) -> None:
    file = tmp_path / "shop.png"
    file.write_bytes(file_bytes(picture()))
    expected = llava.generate(about(picture()), max_new_tokens=TOKENS)
    model = llava.as_llama_index(max_tokens=TOKENS)
    for image in (
        ImageBlock(path=file),
        ImageBlock(image=file.read_bytes()),
        ImageBlock(image=BytesIO(file.read_bytes())),
        ImageBlock(url="data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()),
    ):
        asked = ChatMessage(role="user", blocks=[image, TextBlock(text=ASKED)])
        answer = model.chat([asked])
        assert answer.message.content == expected.text
        assert answer.raw["usage"]["prompt_tokens"] == expected.usage.prompt_tokens
        assert "".join(part.delta for part in model.stream_chat([asked])) == expected.text


# What is learnt from.


def test_items_with_images_are_measured_as_the_model_answers_them(llm: SteerableHFLLM) -> None:
    prompts = [about(picture(0)), "Hello", about(picture(1), "And on this?")]
    items = [
        EvaluationItem(id=str(i), category="c", messages=prompt, good="A shop.", bad="A cat.")
        for i, prompt in enumerate(prompts)
    ]
    steering = random_vector(llm, "a", 1).steer(1.0)
    arms = [Arm("steered", steering), Arm("none", Steering.none())]
    found = measure(llm, arms, items, TOKENS)
    for arm, outcomes in zip(arms, found, strict=True):
        for item, outcome in zip(items, outcomes, strict=True):
            answer = llm.generate(item.messages, arm.steering, max_new_tokens=TOKENS)
            assert list(outcome.tokens) == list(answer.token_ids)
            good, bad = llm.score(item.messages, ["A shop.", "A cat."], arm.steering)
            assert outcome.margin == pytest.approx(good - bad, abs=1e-3)
    assert answers(llm, [(arms[0], item) for item in items], TOKENS) == [o.text for o in found[0]]
    assert all(outcome.kl_per_token > 0 for outcome in found[0])
    assert KlMeter(llm, items, TOKENS)(steering) == pytest.approx(
        sum(outcome.kl_per_token for outcome in found[0]) / len(items), abs=1e-3
    )


def test_a_contrast_over_an_image_is_measured_as_it_answers(llm: SteerableHFLLM) -> None:
    text = "Context:\nThe shop is in Lyon.\n\nQuestion: Where is the shop?"
    item = EvaluationItem(
        id="a", category="c", messages=about(picture(), text), good="Lyon.", bad="Nice."
    )
    arms = [Arm("none", Steering.none()), Arm("cad", Steering.none(), contrast=Contrast("cad"))]
    found = measure(llm, arms, [item], TOKENS)
    for arm, (outcome,) in zip(arms, found, strict=True):
        answer = llm.generate(item.messages, arm.steering, contrast=arm.contrast,
                              max_new_tokens=TOKENS)  # fmt: skip
        assert outcome.tokens == answer.token_ids
