import copy
import logging
import sys

import pytest
import torch
from langchain_core.documents import Document
from transformers import GenerationConfig, tokenization_utils_base

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import (
    InvalidInputError,
    MissingExtraError,
    ModelMismatchError,
    PromptTooLongError,
    UnknownStepError,
)
from steerable_llm.policy.policy import Policy
from steerable_llm.runtime.load import DEFAULT_CONTEXT_WINDOW
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector

PROMPT = "The capital of France is what?"


@pytest.fixture
def policy(tiny_vector):
    return Policy.from_dict(
        {
            "default_step": "answer",
            "steps": {
                "answer": {"vectors": [{"name": "faith", "strength": 0.5}]},
                "condense": {},
            },
        },
        vectors={"faith": tiny_vector},
    )


@pytest.fixture
def guided(tiny_llm, policy):
    return SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, policy=policy)


def test_the_model_is_exposed_and_put_into_evaluation_mode(make_tiny_model, tiny_tokenizer):
    model = copy.deepcopy(make_tiny_model("llama")).train()
    llm = SteerableHFLLM(model, tiny_tokenizer)
    assert llm.model is model
    assert llm.tokenizer is tiny_tokenizer
    assert not model.training
    assert llm.blocks == list(model.model.layers)
    assert llm.device == torch.device("cpu")


def test_the_context_window_is_the_smaller_of_what_is_declared(make_llm, tiny_llm):
    assert tiny_llm.context_window == 256
    assert make_llm("bloom").context_window == DEFAULT_CONTEXT_WINDOW
    limited = copy.deepcopy(tiny_llm.tokenizer)
    limited.model_max_length = 100
    assert SteerableHFLLM(tiny_llm.model, limited).context_window == 100
    assert SteerableHFLLM(tiny_llm.model, limited, context_window=50).context_window == 50


@pytest.mark.parametrize("window", ["x", 0, -5, 2.5, True])
def test_a_context_window_is_a_number_of_tokens(tiny_llm, window):
    with pytest.raises(InvalidInputError, match="whole number of tokens from 1 on"):
        SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, context_window=window)


@pytest.mark.parametrize("ask", ["generate", "stream"])
def test_an_argument_of_a_call_that_is_none_is_told_with_the_nearest(tiny_llm, ask):
    with pytest.raises(InvalidInputError, match="did you mean 'max_new_tokens'"):
        getattr(tiny_llm, ask)("Hi", max_tokens=5)


@pytest.mark.parametrize("wrap", [lambda page: page, lambda page: [page]])
def test_a_wrong_context_is_told_by_its_kind_and_not_with_all_its_words(tiny_llm, wrap):
    page = Document("word " * 1000)  # of a framework, whose own models would take it in a list
    with pytest.raises(InvalidInputError, match=r"Document.*: give True") as told:
        tiny_llm.generate("Hi", context=wrap(page))
    assert len(str(told.value)) < 120


def test_a_prompt_too_long_stops_everything_before_anything_runs(tiny_llm):
    def fail(module, inputs):
        raise AssertionError("the model ran")

    requests = [GenerationRequest("Hi"), GenerationRequest("word " * 300)]
    with tiny_llm.blocks[0].register_forward_pre_hook(fail):
        with pytest.raises(PromptTooLongError) as error:
            tiny_llm.generate_batch(requests)
    assert error.value.prompt_tokens == len(tiny_llm.encode("word " * 300))
    assert error.value.max_new_tokens == 128
    assert error.value.context_window == 256


def test_a_text_beyond_the_window_brings_no_warning_that_the_model_would_fail(monkeypatch):
    llm = SteerableHFLLM.demo()
    llm.tokenizer.deprecation_warnings.clear()  # transformers says it once of a tokenizer
    warned = []
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", warned.append)
    long = "word " * 600
    for prompt in (long, f"{long} <|user|>"):  # the second is encoded apart, as it spells a token
        with pytest.raises(PromptTooLongError):
            llm.generate(prompt)
    with pytest.raises(PromptTooLongError):
        llm.score(PROMPT, [long])
    # Frameworks count whole documents by these, to cut them up.
    assert len(llm.as_llama_index().tokens(long)) > llm.context_window
    assert llm.as_langchain().get_num_tokens(long) > llm.context_window
    assert warned == []


def test_a_prompt_that_just_fits_is_answered(tiny_llm):
    room = 256 - len(tiny_llm.encode(PROMPT))
    assert tiny_llm.generate(PROMPT, max_new_tokens=room).text is not None
    with pytest.raises(PromptTooLongError):
        tiny_llm.generate(PROMPT, max_new_tokens=room + 1)


def test_the_answer_ends_at_the_end_of_turn_or_at_the_limit(tiny_llm):
    answers = tiny_llm.generate_batch(
        [
            GenerationRequest(PROMPT, max_new_tokens=40, temperature=3.0, seed=seed)
            for seed in range(30)
        ]
    )
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}
    for answer in answers:
        ended = answer.token_ids[-1] == tiny_llm.tokenizer.eos_token_id
        assert ended == (answer.finish_reason == "stop")
        assert ended or len(answer.token_ids) == 40
        assert tiny_llm.tokenizer.eos_token_id not in answer.token_ids[:-1]


def test_a_stop_text_ends_the_answer_and_is_not_in_it(tiny_llm):
    settings = {"max_new_tokens": 40, "temperature": 2.0, "seed": 3}
    whole = tiny_llm.generate(PROMPT, **settings)
    middle = whole.text[len(whole.text) // 2 :][:2]
    stopped = tiny_llm.generate(PROMPT, **settings, stop=middle)
    assert stopped.text == whole.text[: whole.text.index(middle)]
    assert stopped.finish_reason == "stop"
    assert len(stopped.token_ids) < len(whole.token_ids)


def test_a_special_token_works_as_a_stop_text(tiny_llm):
    marker = tiny_llm.tokenizer.convert_tokens_to_ids("<|user|>")

    def answers(stop):
        return tiny_llm.generate_batch(
            [
                GenerationRequest(PROMPT, max_new_tokens=40, temperature=4.0, seed=i, stop=stop)
                for i in range(32)
            ]
        )

    met = [
        (whole, stopped)
        for whole, stopped in zip(answers(None), answers("<|user|>"), strict=True)
        if marker in whole.token_ids
    ]
    assert met
    for whole, stopped in met:
        assert stopped.token_ids == whole.token_ids[: whole.token_ids.index(marker) + 1]
        assert stopped.finish_reason == "stop"


def test_a_seed_gives_the_same_answer_alone_and_in_a_batch(tiny_llm, tiny_vector):
    requests = [
        GenerationRequest(
            "Hi " * (i + 1), tiny_vector.steer(0.1 * i), temperature=1.0, seed=i, max_new_tokens=12
        )
        for i in range(5)
    ]
    together = tiny_llm.generate_batch(requests)
    assert together == [tiny_llm.generate_batch([request])[0] for request in requests]
    assert together == tiny_llm.generate_batch(requests, batch_size=2)


def test_sampling_without_a_seed_varies(tiny_llm):
    request = GenerationRequest(PROMPT, max_new_tokens=12, temperature=2.0)
    texts = {answer.text for answer in tiny_llm.generate_batch([request] * 4)}
    assert len(texts) > 1


def test_an_empty_batch_is_an_empty_list(tiny_llm):
    assert tiny_llm.generate_batch([]) == []
    with pytest.raises(InvalidInputError, match="batch_size"):
        tiny_llm.generate_batch([], batch_size=0)


def test_settings_of_the_checkpoint_do_not_leak_into_the_answer(tiny_llm, caplog, recwarn):
    whole = tiny_llm.generate(PROMPT, max_new_tokens=30)
    model = copy.deepcopy(tiny_llm.model)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, top_k=3, top_p=0.1, repetition_penalty=9.0,
        no_repeat_ngram_size=1, min_new_tokens=20, max_length=25, num_beams=3,
        suppress_tokens=list(whole.token_ids), eos_token_id=tiny_llm.tokenizer.eos_token_id,
    )  # fmt: skip
    before = model.generation_config.to_dict()
    with caplog.at_level(logging.WARNING):
        answer = SteerableHFLLM(model, tiny_llm.tokenizer).generate(PROMPT, max_new_tokens=30)
    assert answer == whole
    assert model.generation_config.to_dict() == before
    assert caplog.records == []
    assert list(recwarn) == []


def test_end_tokens_of_the_checkpoint_end_the_answer(tiny_llm):
    whole = tiny_llm.generate(PROMPT, max_new_tokens=10)
    model = copy.deepcopy(tiny_llm.model)
    model.generation_config.eos_token_id = [2, whole.token_ids[4]]
    shorter = SteerableHFLLM(model, tiny_llm.tokenizer).generate(PROMPT, max_new_tokens=10)
    assert shorter.token_ids == whole.token_ids[: whole.token_ids.index(whole.token_ids[4]) + 1]
    assert shorter.finish_reason == "stop"


def test_nothing_is_printed_while_generating(make_llm, capfd):
    for family in ("gpt2", "llama", "bloom"):
        make_llm(family).generate(PROMPT, max_new_tokens=3)
    assert capfd.readouterr() == ("", "")


def test_scores_that_are_not_numbers_are_an_error_and_leave_no_hook(tiny_llm, tiny_vector):
    model = copy.deepcopy(tiny_llm.model)
    model.lm_head.weight.data.fill_(torch.nan)
    llm = SteerableHFLLM(model, tiny_llm.tokenizer)
    with pytest.raises(Exception, match="NaN"):
        llm.generate(PROMPT, tiny_vector.steer(0.1))
    assert all(not block._forward_hooks for block in llm.blocks)


def test_the_policy_steers_requests_that_bring_no_steering(guided, tiny_llm, tiny_vector):
    steered = tiny_llm.generate(PROMPT, tiny_vector.steer(0.5), max_new_tokens=10)
    plain = tiny_llm.generate(PROMPT, max_new_tokens=10)
    assert guided.generate(PROMPT, max_new_tokens=10) == steered
    assert guided.generate(PROMPT, step="condense", max_new_tokens=10).text == plain.text
    assert guided.generate(PROMPT, step="answer", max_new_tokens=10).steered == steered.steered
    assert guided.generate(PROMPT, step="answer", max_new_tokens=10).step == "answer"
    assert guided.generate(PROMPT, Steering.none(), max_new_tokens=10) == plain
    (score,) = guided.score(PROMPT, ["Paris."])
    assert score == tiny_llm.score(PROMPT, ["Paris."], tiny_vector.steer(0.5))[0]


def test_an_unknown_step_is_refused(guided):
    for ask in (guided.generate, guided.stream):
        with pytest.raises(UnknownStepError, match="answer, condense"):
            ask(PROMPT, step="anser")


def test_a_policy_for_another_model_is_refused(make_llm, policy):
    other = make_llm("mistral")
    with pytest.raises(ModelMismatchError):
        SteerableHFLLM(other.model, other.tokenizer, policy=policy)


def test_a_vector_for_a_deeper_or_wider_model_is_refused(tiny_llm):
    width, depth = tiny_llm.fingerprint.hidden_size, len(tiny_llm.blocks)
    for layer, size in ((depth, width), (1, width + 1)):
        shape = {"hidden_size": size, "num_layers": layer + 1}
        foreign = SteeringVector(
            name="foreign",
            directions={layer: torch.ones(size)},
            scales={layer: 1.0},
            fingerprint=tiny_llm.fingerprint.model_copy(update=shape),
        )
        with pytest.raises(ModelMismatchError, match=r"foreign|layers"):
            tiny_llm.generate(PROMPT, foreign.steer(1.0))
    assert all(not block._forward_hooks for block in tiny_llm.blocks)


def test_a_saved_model_is_loaded_and_answers_the_same(tiny_llm, tmp_path, policy, tiny_vector):
    folder = tmp_path / "a model with blanks"
    tiny_llm.model.save_pretrained(folder)
    tiny_llm.tokenizer.save_pretrained(folder)
    loaded = SteerableHFLLM.from_pretrained(folder, policy=policy)
    assert not loaded.fingerprint.differences(tiny_llm.fingerprint)
    assert loaded.fingerprint.model_id == str(folder)
    assert loaded.model.dtype == torch.float32
    steered = loaded.generate(PROMPT, max_new_tokens=10)
    assert steered == tiny_llm.generate(PROMPT, tiny_vector.steer(0.5), max_new_tokens=10)


def test_the_dtype_can_be_chosen(tiny_llm, tmp_path):
    tiny_llm.model.save_pretrained(tmp_path)
    tiny_llm.tokenizer.save_pretrained(tmp_path)
    loaded = SteerableHFLLM.from_pretrained(tmp_path, dtype="bfloat16")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.generate(PROMPT, max_new_tokens=3).usage.completion_tokens == 3


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_folder_without_a_model_is_one_clear_line(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InvalidInputError, match="cannot load a model from") as error:
        SteerableHFLLM.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_weights_that_were_cut_short_are_one_clear_line(tiny_llm, tmp_path):
    tiny_llm.model.save_pretrained(tmp_path)
    tiny_llm.tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InvalidInputError, match="cannot load a model from"):
        SteerableHFLLM.from_pretrained(tmp_path)


def test_a_dtype_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="unknown dtype 'float99'"):
        SteerableHFLLM.from_pretrained(tmp_path, dtype="float99")


@pytest.mark.parametrize(
    "messages",
    [
        "cut \ud83d",
        [
            {"role": "user", "content": "Hi", "name": "Ann"},
            {"role": "assistant", "content": "cut \ud83d"},
        ],
    ],
)
def test_half_a_character_is_bad_input(tiny_llm, messages):
    with pytest.raises(InvalidInputError, match="half a character"):
        tiny_llm.generate(messages)


def test_half_a_character_in_an_answer_is_bad_input(tiny_llm):
    with pytest.raises(InvalidInputError, match="half a character"):
        tiny_llm.score(PROMPT, ["cut \ud83d"])


def test_a_batch_takes_requests_and_nothing_else(tiny_llm):
    with pytest.raises(InvalidInputError, match="request 1 is a str: give GenerationRequest"):
        tiny_llm.generate_batch([GenerationRequest(PROMPT), PROMPT])


@pytest.mark.parametrize(
    ("method", "module", "extra"),
    [
        ("as_langchain", "langchain", "langchain"),
        ("as_llama_index", "llama_index", "llama-index"),
    ],
)
def test_a_missing_extra_names_what_to_install(tiny_llm, monkeypatch, method, module, extra):
    monkeypatch.setitem(sys.modules, f"steerable_llm.adapters.{module}", None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'steerable-llm\[{extra}\]'"):
        getattr(tiny_llm, method)()


def test_adapters_share_the_model(tiny_llm):
    langchain = tiny_llm.as_langchain(step="answer")
    assert langchain.llm is tiny_llm
    assert langchain.step == "answer"
    llama_index = tiny_llm.as_llama_index()
    assert llama_index.llm is tiny_llm
