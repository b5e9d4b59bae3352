"""Prompts with images in one pass: where a model can, and then as one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from slow_vision import CONTEXT, picture
from vision_families import FAMILIES, family
from vision_models import VISION_FAMILIES, vision_llm

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.vision import ReadPrompt, in_one_batch
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.measure import measure
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.methods.states import read_states
from steerable_llm.runtime.forward import Stream, run_prompts
from steerable_llm.runtime.scores import Scored, answer_log_probs
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Application, Steering
from steerable_llm.vector.vector import SteeringVector

LENGTHS = ("What is it?", "What is on it, and where would one look for it?", CONTEXT)


def asked(seed: int, text: str) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": picture(seed)}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module", params=list(VISION_FAMILIES))
def llm(request: pytest.FixtureRequest) -> SteerableHFLLM:
    return vision_llm(request.param)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each prompt that is run for an answer had beside it."""
    seen: list[int] = []
    real = Stream.__init__

    def counted(self: Any, llm: Any, ids: torch.Tensor, *rest: Any, **named: Any) -> None:
        seen.append(len(ids))
        real(self, llm, ids, *rest, **named)

    monkeypatch.setattr(Stream, "__init__", counted)
    return seen


def seen_by(llm: Any, strength: float) -> Steering:
    """A steering of the tower alone."""
    tower = {0: torch.randn(16, generator=torch.Generator().manual_seed(0))}
    return SteeringVector(
        "seen",
        {0: torch.zeros(32)},
        {0: 1.0},
        llm.fingerprint,
        application=Application(site="mlp", rule="turn", unit="relative", scope="all"),
        tower=tower,
    ).steer(strength)


def test_answers_scores_and_states_are_those_of_one_by_one(
    llm: SteerableHFLLM, passes: list[int]
) -> None:
    prompts = [asked(seed, text) for seed, text in enumerate(LENGTHS)]
    requests = [GenerationRequest(each, max_new_tokens=8) for each in (*prompts, "Hello")]
    llm.generate_batch(requests)  # what the model allows is known after this
    passes.clear()
    together = llm.generate_batch(requests)
    assert sorted(passes) == [1, 3]
    alone = [llm.generate_batch([request])[0] for request in requests]
    assert [x.token_ids for x in together] == [x.token_ids for x in alone]
    scored = llm.score_batch([(each, "A shop.") for each in prompts])
    each_alone = [llm.score(each, ["A shop."])[0] for each in prompts]
    assert scored == pytest.approx(each_alone, abs=1e-3)
    texts = [llm.chat_format.read(each) for each in prompts]
    states = read_states(llm, texts)
    for row, text in zip(states, texts, strict=True):
        torch.testing.assert_close(row, read_states(llm, [text])[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "mllama"])
def test_every_family_says_the_same_of_prompts_that_run_together(name: str) -> None:
    llm, prompt, _ = family(name)
    more = llm.encode_answer("And what else is on it?")[:-1]
    prompts = [prompt, llm.followed(prompt, more)]
    answer = llm.encode_answer("A cat.")
    items = [Scored(p.tokens, answer, Steering.none(), p.vision) for p in prompts]
    with torch.no_grad():
        together = answer_log_probs(llm, items)
        for item, found in zip(items, together, strict=True):
            torch.testing.assert_close(answer_log_probs(llm, [item])[0], found, rtol=0, atol=1e-3)
    assert llm.image_batches.split(prompts, range(2), 8, side="right") == [[0, 1]]
    [rows] = llm.image_batches.split(prompts, range(2), 8)
    both = [prompts[place] for place in rows]
    tokens, none = [read.tokens for read in both], [Steering.none()] * len(both)
    stream = run_prompts(llm, tokens, none, in_one_batch(both, "left"))
    for row, read in zip(stream.first, both, strict=True):
        one = run_prompts(llm, [read.tokens], none[:1], read.vision).first[0]
        torch.testing.assert_close(row, one, rtol=0, atol=1e-3)


def test_images_across_the_attention_are_seen_all_along_an_answer() -> None:
    llm, prompt, _ = family("mllama")
    answer = llm.encode_answer("A cat.")
    whole = Scored(prompt.tokens, answer, Steering.none(), prompt.vision)
    with torch.no_grad():
        expected = answer_log_probs(llm, [whole])[0]
    stream = run_prompts(llm, [prompt.tokens], [Steering.none()], prompt.vision)
    fed = stream.feed(torch.tensor([answer[:-1]]))[0]
    found = torch.cat([stream.first, fed]).log_softmax(-1)[range(len(answer)), answer]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_questions_with_and_without_images_are_measured_each_beside_their_like(
    passes: list[int],
) -> None:
    llm = vision_llm("llava")
    plain = [[{"role": "user", "content": text}] for text in ("Hi", "Good morning to all of you")]
    prompts = [plain[0], asked(0, "What is it?"), plain[1], asked(1, "What is it?")]
    items = [
        EvaluationItem(id=str(number), category="a", messages=prompt, accept=("x",))
        for number, prompt in enumerate(prompts)
    ]
    measure(llm, [Arm("none")], items, 2, 4)  # what the model allows is known after this
    passes.clear()
    measure(llm, [Arm("none")], items, 2, 2)
    assert passes == [2, 2]


def test_a_model_that_reads_them_otherwise_runs_them_one_by_one(passes: list[int]) -> None:
    llm = vision_llm("llava")
    real = llm.model.model.get_image_features

    def first_alone(*args: Any, **named: Any) -> Any:
        found = real(*args, **named)
        pixels = named.get("pixel_values", args[0] if args else None)
        if len(pixels) > 1:
            raise ValueError("one image only")
        return found

    llm.model.model.get_image_features = first_alone
    requests = [GenerationRequest(asked(n, t), max_new_tokens=2) for n, t in enumerate(LENGTHS)]
    made = llm.generate_batch(requests)
    passes.clear()
    again = llm.generate_batch(requests)
    assert passes == [1, 1, 1]
    assert [x.token_ids for x in again] == [x.token_ids for x in made]


def test_a_model_that_swaps_pictures_is_found_out_by_two_prompts_of_one_picture() -> None:
    llm = vision_llm("llava")
    real = llm.model.model.get_image_features

    def swapped(pixel_values: torch.Tensor, **named: Any) -> Any:
        return real(pixel_values=pixel_values.flip(0), **named)

    llm.model.model.get_image_features = swapped
    same = llm.chat_format.read(asked(0, LENGTHS[0]))
    assert llm.image_batches.split([same, same], range(2), 8) == [[0], [1]]
    assert llm.image_batches.split([same, same], range(2), 8, side="right") == [[0], [1]]


def test_towers_steered_alike_run_together_and_contrasts_alone(passes: list[int]) -> None:
    llm = vision_llm("llava")
    weak, strong = seen_by(llm, 0.2), seen_by(llm, 0.9)
    contrast = Contrast("cad", 0.5)
    requests = [
        GenerationRequest(asked(n, CONTEXT), steering, max_new_tokens=4, contrast=against)
        for n, (steering, against) in enumerate(
            [
                (weak, None), (strong, None), (weak, None), (Steering.none(), None),
                (strong, None), (Steering.none(), contrast),
            ]
        )
    ]  # fmt: skip
    llm.generate_batch(requests)
    passes.clear()
    together = llm.generate_batch(requests)
    assert sorted(passes) == [1, 1, 1, 2, 2]  # the last of one row is the stream without context
    alone = [llm.generate_batch([request])[0] for request in requests]
    assert [x.token_ids for x in together] == [x.token_ids for x in alone]
    assert [x.steered for x in together] == [x.steered for x in alone]


def test_a_batch_holds_no_more_than_fits_one_pass() -> None:
    llm = vision_llm("llava")
    read = llm.chat_format.read(asked(0, LENGTHS[0]))
    long = ReadPrompt([*read.tokens, *[5] * 2000], read.vision)
    assert llm.image_batches.split([read, read, read], range(3), 2) == [[0, 1], [2]]
    split = llm.image_batches.split([long] * 3, range(3), 8)
    assert [len(some) for some in split] == [2, 1]
