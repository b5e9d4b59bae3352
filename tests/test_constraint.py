"""Answers that must follow a form, whatever the model would rather say."""

import json
import re
import string
import threading
from enum import Enum

import pytest
from adapter_models import random_vector
from pydantic import BaseModel, Field
from scripted import scripted_llm
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerable_llm.answer.constraint import Constraint, json_rule
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.answer.schema import check_schema
from steerable_llm.errors import InvalidInputError, SteerableError


class Tone(Enum):
    POLITE = "polite"
    RUDE = "rude"


class Verdict(BaseModel):
    tone: Tone
    score: int = Field(ge=0, le=99)
    quote: str = Field(max_length=12)


SCHEMA = Constraint.json_schema(Verdict)
FORMS = {
    "schema": (SCHEMA, Verdict.model_validate_json),
    "choice": (Constraint.choice(["yes", "no", 'per"haps\n']), ["yes", "no", 'per"haps\n'].index),
    "regex": (Constraint.regex(r"[0-9]{2}/[0-9]{2}"), re.compile(r"\d\d/\d\d").fullmatch),
    "object": (
        Constraint.json_schema({"type": "object", "maxProperties": 0}),
        json.loads,
    ),
    "special": (Constraint.choice(["<|user|>", "<|end|>"]), ["<|user|>", "<|end|>"].index),
}


@pytest.fixture(scope="module")
def demo():
    return SteerableHFLLM.demo()


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_finished_answer_follows_its_form(tiny_llm, demo, form, temperature):
    constraint, check = FORMS[form]
    for llm in (tiny_llm, demo):
        settings = {"temperature": temperature, "seed": 3, "max_new_tokens": 120}
        answer = llm.generate("When does it open?", constraint=constraint, **settings)
        assert answer.finish_reason == "stop"
        assert check(answer.text) is not None


def test_a_steered_answer_follows_its_form_too_and_is_steered(tiny_llm):
    constraint, check = FORMS["schema"]
    answers = [
        tiny_llm.generate("Hello", random_vector(tiny_llm, "v", 1).steer(s), constraint=constraint)
        for s in (0.5, -3.0, 30.0)
    ]
    assert all(answer.steered[0].steered_tokens > 0 for answer in answers)
    assert all(check(answer.text) for answer in answers if answer.finish_reason == "stop")
    assert any(answer.finish_reason == "stop" for answer in answers)


def test_rows_with_and_without_a_form_share_a_batch(tiny_llm):
    vector = random_vector(tiny_llm, "v", 1)
    requests = [
        GenerationRequest(
            f"Question {i}", vector.steer(0.3 * i), max_new_tokens=60, constraint=form
        )
        for i, form in enumerate(
            [SCHEMA, None, FORMS["choice"][0], None, FORMS["regex"][0], SCHEMA]
        )
    ]
    together = tiny_llm.generate_batch(requests)
    assert together == [tiny_llm.generate_batch([request])[0] for request in requests]
    for request, answer in zip(requests, together, strict=True):
        if request.constraint is None:
            free = GenerationRequest(request.messages, request.steering, max_new_tokens=60)
            assert tiny_llm.generate_batch([free]) == [answer]


def test_the_stream_is_the_whole_answer(tiny_llm):
    chunks = list(tiny_llm.stream("Hello", constraint=SCHEMA))
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].final.text
    assert chunks[-1].final == tiny_llm.generate("Hello", constraint=SCHEMA)


def test_an_answer_that_runs_out_of_tokens_says_so(tiny_llm):
    answer = tiny_llm.generate("Hello", constraint=SCHEMA, max_new_tokens=5)
    assert (answer.finish_reason, len(answer.token_ids)) == ("length", 5)
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.text)


def test_a_stop_text_does_not_cut_a_form_short(tiny_llm):
    whole = tiny_llm.generate("Hello", constraint=SCHEMA)
    assert tiny_llm.generate("Hello", constraint=SCHEMA, stop=["tone", ","]) == whole


def test_what_the_model_would_say_anyway_is_left_as_it_is():
    said = '{"tone": "rude", "score": 7, "quote": "Köln 👋"}'
    llm = scripted_llm({"Hello": said})
    assert llm.generate("Hello", constraint=SCHEMA).text == said
    assert llm.generate("Hello", constraint=Constraint.json_object()).text == said


def test_a_recursive_schema_is_followed():
    node = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}
    said = '{"kids": [{"kids": []}, {}]}'
    llm = scripted_llm({"Hello": said})
    assert llm.generate("Hello", constraint=Constraint.json_schema(node)).text == said


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constraint.json_schema({"type": "array", "uniqueItems": True}),
        lambda: Constraint.json_schema({"type": "wizard"}),
        lambda: Constraint.regex("(?=a)b"),
        lambda: Constraint.regex("(unclosed"),
        lambda: Constraint.json_schema("[1, 2]"),
        lambda: Constraint.json_schema("{"),
        lambda: Constraint.choice([]),
        lambda: Constraint.choice("yes"),
        lambda: Constraint.regex(""),
    ],
)
def test_a_form_that_cannot_be_guaranteed_is_one_clear_line(tiny_llm, make):
    with pytest.raises(InvalidInputError) as error:
        tiny_llm.generate("Hi", constraint=make())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strng"}, "is wrong: there is no type 'strng'.* did you mean 'string'?"),
        ({"properties": {"a": {"type": "Integer"}}}, "wrong at properties.a: .*mean 'integer'?"),
        ({"type": ["string", "nul"]}, "there is no type 'nul'.* did you mean 'null'?"),
        ({"anyOf": [{"type": "null"}, {"items": {"type": "x"}}]}, "wrong at anyOf.1.items: "),
        ({"allOf": [{"$defs": {"A": {"type": 5}}}]}, "wrong at allOf.0.\\$defs.A: its type is 5"),
        ({"type": []}, "its type is list"),
        ({"properties": ["a"]}, "wrong at properties: there is list where schemas by name"),
        ({"items": "string"}, "wrong at items: there is 'string' where a schema"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_schema_that_is_none_is_told_by_its_place(schema, said, strict):
    with pytest.raises(InvalidInputError, match=said):
        Constraint.json_schema(schema, strict=strict)
    with pytest.raises(InvalidInputError, match=said):
        json_rule(schema)


def test_names_and_values_in_a_schema_are_no_types():
    schema = {
        "type": "object",
        "properties": {"type": {"enum": ["strng", 5]}, "properties": {"const": {"type": "x"}}},
        "additionalProperties": False,
        "items": True,
    }
    check_schema(schema)


def test_without_strictness_what_cannot_be_guaranteed_is_left_out(tiny_llm):
    schema = {"type": "array", "uniqueItems": True, "maxItems": 2, "items": {"enum": [1, 2]}}
    loose = Constraint.json_schema(schema, strict=False)
    assert len(json.loads(tiny_llm.generate("Hi", constraint=loose).text)) <= 2


def test_constraints_can_be_told_apart_and_put_into_sets():
    assert Constraint.json_schema(Verdict) == SCHEMA
    assert len({SCHEMA, Constraint.json_object(), Constraint.json_schema(Verdict)}) == 2


def test_a_slow_tokenizer_is_refused(tiny_llm):
    class Slow:
        def __getattr__(self, name):
            return getattr(tiny_llm.tokenizer, name)

        def __call__(self, *args, **kwargs):
            return tiny_llm.tokenizer(*args, **kwargs)

    llm = SteerableHFLLM(tiny_llm.model, Slow())
    with pytest.raises(InvalidInputError, match="fast tokenizer"):
        llm.generate("Hi", constraint=SCHEMA)


def test_a_cancelled_batch_stops_within_one_token():
    llm = scripted_llm({"Hi": "word " * 60})
    control = llm.model.control
    control.gate = threading.Semaphore(5)
    cancelled = threading.Event()
    requests = [GenerationRequest("Hi"), GenerationRequest("Hi", constraint=SCHEMA)]
    done = []
    worker = threading.Thread(
        target=lambda: done.append(llm.generate_batch(requests, cancelled=cancelled))
    )
    worker.start()
    while len(control.forwards) < 5:
        pass
    cancelled.set()  # the sixth pass waits at the gate, or is about to
    control.gate.release(100)
    worker.join(10)
    assert done == [[]]
    assert len(control.forwards) <= 6
    assert llm.generate_batch(requests, cancelled=cancelled) == []
    assert len(control.forwards) <= 6


class StopsAfterThree(threading.Event):
    """Set once it has been asked three times, so that no thread has to be quick."""

    asked = 0

    def is_set(self):
        self.asked += 1
        return self.asked > 3


def test_a_stream_that_is_stopped_from_outside_ends_without_a_last_chunk():
    llm = scripted_llm({"Hi": "word " * 60})
    whole = list(llm.stream("Hi"))
    chunks = list(llm.stream("Hi", cancelled=StopsAfterThree()))
    assert whole[-1].final is not None
    assert all(chunk.final is None for chunk in chunks)
    assert len(chunks) < len(whole) / 2


@pytest.mark.parametrize("text", ["Grüße 👋", 'Ça "va" \\ \t', "a\nb", "/a\\/", "x" * 60])
def test_texts_of_any_characters_can_be_asked_for(tiny_llm, text):
    assert tiny_llm.generate("Hi", constraint=Constraint.choice([text])).text == text
    assert tiny_llm.generate("Hi", constraint=Constraint.regex(re.escape(text))).text == text


def sentencepiece_llm(special_bytes):
    """A tiny model whose tokenizer is built as those of Llama 2 and Gemma are."""
    blank = "\u2581"
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.Prepend(blank), normalizers.Replace(" ", blank)]
    )
    bpe.decoder = decoders.Sequence(
        [decoders.Replace(blank, " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    special = ["<unk>", "<s>", "</s>"]
    bpe.train_from_iterator(
        ["the shop in Lyon says yes or no"] * 5,
        trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False),
    )
    saved = json.loads(bpe.to_str())
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] if special_bytes else []
    vocabulary = saved["model"]["vocab"]
    vocabulary.update({piece: len(vocabulary) + i for i, piece in enumerate(pieces)})
    return tiny_around(Tokenizer.from_str(json.dumps(saved)))


def tiny_around(made):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>", eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        vocab_size=len(tokenizer) + 13, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return SteerableHFLLM(LlamaForCausalLM(config).eval(), tokenizer)


@pytest.mark.parametrize("form", list(FORMS))
def test_a_sentencepiece_tokenizer_and_a_padded_head_follow_forms_too(form):
    constraint, check = FORMS[form]
    llm = sentencepiece_llm(special_bytes=True)
    answer = llm.generate("the shop", constraint=constraint, temperature=1.0, seed=1)
    assert answer.finish_reason == "stop"
    assert check(answer.text) is not None


def metaspace_llm(pieces, split=True):
    """A tiny model whose tokenizer has the short form of SentencePiece's decoder."""
    settings = {
        "vocab_size": 200,
        "special_tokens": ["<unk>", "<s>", "</s>"],
        "initial_alphabet": list(string.printable),
        "show_progress": False,
    }
    model, trainer = models.BPE(), trainers.BpeTrainer(**settings)
    if pieces == "unigram":
        model = models.Unigram()
        trainer = trainers.UnigramTrainer(**settings, unk_token="<unk>")
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    made.decoder = decoders.Metaspace(split=split)
    made.train_from_iterator(["the shop in Lyon says yes or no"] * 5, trainer)
    return tiny_around(made)


@pytest.mark.parametrize("pieces", ["bpe", "unigram"])
def test_a_tokenizer_with_the_short_decoder_follows_forms_too(pieces):
    llm = metaspace_llm(pieces)
    for constraint, check in (FORMS["schema"], FORMS["regex"], FORMS["choice"]):
        answer = llm.generate(
            "the shop", constraint=constraint, temperature=1.0, seed=1, max_new_tokens=200
        )
        assert answer.finish_reason == "stop"
        assert check(answer.text) is not None
    blank = llm.generate("the shop", constraint=Constraint.choice(["yes or no"]))
    assert blank.text == "yes or no"


def test_pieces_that_the_two_forms_of_a_decoder_read_apart_are_refused():
    llm = metaspace_llm("bpe", split=False)
    assert any("\u2581" in piece.lstrip("\u2581") for piece in llm.tokenizer.get_vocab())
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="blank after their first letter"):
            llm.generate("the shop", constraint=SCHEMA)


def test_characters_that_the_vocabulary_lacks_are_an_error_and_no_nonsense():
    llm = sentencepiece_llm(special_bytes=False)
    with pytest.raises(SteerableError, match=r"cannot be followed.*vocabulary") as error:
        llm.generate("the shop", constraint=Constraint.regex("[0-9]+"))
    assert "\n" not in str(error.value)
