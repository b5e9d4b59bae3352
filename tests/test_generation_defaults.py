"""What holds where a call says nothing: our own defaults, or those of the checkpoint."""

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
from adapter_models import QUESTION
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import OutputParserException
from llama_index.core import PromptTemplate
from llama_index.core.program import FunctionCallingProgram
from pydantic import BaseModel
from scripted import calling, scripted_llm

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import InvalidInputError

DRAWN = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.01,
         "repetition_penalty": 1.1, "max_new_tokens": 9}  # fmt: skip
ADAPTERS: list[Any] = [SteerableChatModel, SteerableLlamaIndexLLM]


@pytest.fixture
def checkpoint(tiny_llm: SteerableHFLLM, tmp_path: Path) -> Any:
    """A checkpoint whose generation_config.json says what a test wants."""

    def saved(**settings: Any) -> str:
        tiny_llm.model.save_pretrained(tmp_path)
        tiny_llm.tokenizer.save_pretrained(tmp_path)
        (tmp_path / "generation_config.json").write_text(json.dumps(settings))
        return str(tmp_path)

    return saved


def opened(folder: str, **options: Any) -> SteerableHFLLM:
    return SteerableHFLLM.from_pretrained(folder, generation_defaults="checkpoint", **options)


def test_a_checkpoints_own_settings_hold_on_request(checkpoint: Any) -> None:
    folder = checkpoint(**DRAWN, bos_token_id=1, num_beams=1)
    plain, own = SteerableHFLLM.from_pretrained(folder), opened(folder)
    told = {name: value for name, value in DRAWN.items() if name != "do_sample"}
    assert own.generation_defaults == told
    assert plain.generation_defaults == {}
    # What a call says wins over them.
    drawn = own.generate(QUESTION, seed=3)
    assert drawn == plain.generate(QUESTION, seed=3, **told)
    assert drawn.usage.completion_tokens == 9
    again = own.generate(QUESTION, temperature=0.0, repetition_penalty=1.0, max_new_tokens=4)
    assert again == plain.generate(QUESTION, max_new_tokens=4)
    assert [chunk.final for chunk in own.stream(QUESTION, seed=3)][-1] == drawn
    # A request is whole in itself.
    [asked] = own.generate_batch([GenerationRequest(QUESTION, max_new_tokens=4)])
    assert asked == again


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_takes_them_as_its_fields(checkpoint: Any, adapter: Any) -> None:
    model = adapter.from_model_id(
        checkpoint(**DRAWN, stop_strings="END"),
        generation_defaults="checkpoint", dtype="float32", top_k=3, temperature=None,
    )  # fmt: skip
    assert (model.temperature, model.top_p, model.top_k, model.max_tokens) == (0.7, 0.9, 3, 9)
    assert (model.min_p, model.repetition_penalty, model.stop) == (0.01, 1.1, ["END"])
    assert pickle.loads(pickle.dumps(model)).llm.generation_defaults["temperature"] == 0.7


@pytest.mark.parametrize(
    ("said", "temperature"),
    [
        ({"do_sample": True}, 1.0),
        ({"do_sample": False}, 0.0),
        ({}, 0.0),
    ],
)
def test_tokens_are_drawn_where_the_checkpoint_says_so(
    checkpoint: Any, said: dict[str, Any], temperature: float
) -> None:
    assert opened(checkpoint(**said)).as_langchain().temperature == temperature


def test_answers_of_other_defaults_are_not_shared_by_a_cache(checkpoint: Any) -> None:
    folder, cache = checkpoint(repetition_penalty=5.0, max_new_tokens=12), InMemoryCache()
    own = opened(folder).as_langchain(cache=cache)
    plain = SteerableHFLLM.from_pretrained(folder).as_langchain(cache=cache, max_tokens=12)
    assert own.invoke(QUESTION).content != plain.invoke(QUESTION).content
    assert own.invoke(QUESTION).content != plain.invoke(QUESTION).content


def test_what_cannot_be_honoured_is_named_in_one_warning(checkpoint: Any) -> None:
    folder = checkpoint(do_sample=False, num_beams=4, no_repeat_ngram_size=3, max_length=20)
    with pytest.warns(UserWarning, match=r"no_repeat_ngram_size=3, num_beams=4$") as told:
        opened(folder)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SteerableHFLLM.from_pretrained(folder)


def test_a_length_leaves_room_for_a_prompt(checkpoint: Any) -> None:
    own = opened(checkpoint(max_new_tokens=10**6))
    assert own.generation_defaults["max_new_tokens"] == own.context_window // 2
    assert own.generate("Hi").text


@pytest.mark.parametrize("value", ["checkpoints", True])
def test_another_source_of_defaults_is_refused(checkpoint: Any, value: Any) -> None:
    with pytest.raises(InvalidInputError, match="give 'checkpoint'"):
        SteerableHFLLM.from_pretrained(checkpoint(), generation_defaults=value)


def test_values_out_of_range_are_one_line(checkpoint: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"generation_config.json .* top_p is 7"):
        opened(checkpoint(top_p=7.0))


@pytest.mark.parametrize("adapter", ["as_langchain", "as_llama_index"])
def test_an_adapter_says_where_they_are_asked_for(tiny_llm: SteerableHFLLM, adapter: str) -> None:
    with pytest.raises(InvalidInputError, match=r"give it to SteerableHFLLM\.from_pretrained"):
        getattr(tiny_llm, adapter)(generation_defaults="checkpoint")


# How long an answer may be of which nothing is said.


def test_what_a_program_reads_may_be_longer() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    text, call = GenerationRequest("?"), GenerationRequest("?", tools=tools)
    assert (text.length(5000), call.length(5000)) == (128, 1024)
    # Never more than the window has left, and never less than a text.
    assert (call.length(300), call.length(5)) == (300, 128)
    assert GenerationRequest("?", tools=tools, max_new_tokens=7).length(300) == 7


class Parts(BaseModel):
    """What something has."""

    names: list[str]


LONG = {"names": [f"a rather long name of part {number}" for number in range(12)]}


@pytest.fixture
def wordy() -> SteerableHFLLM:
    """A model that gives an object of more than 128 tokens, plainly or as a call."""

    def say(prompt: str) -> str:
        return calling("Parts", LONG) if "Tools:" in prompt else json.dumps(LONG)

    return scripted_llm(say)


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_an_object_fits_into_the_default_length(wordy: SteerableHFLLM, method: Any) -> None:
    schema = None if method == "json_mode" else Parts
    asks = wordy.as_langchain().with_structured_output(schema, method=method)
    assert len(wordy.tokenizer(json.dumps(LONG))["input_ids"]) > 150
    whole = LONG if method == "json_mode" else Parts(**LONG)
    assert asks.invoke("What has it?") == whole
    assert await asks.ainvoke("What has it?") == whole
    assert list(asks.stream("What has it?"))[-1] == whole
    cut = wordy.as_langchain(max_tokens=40).with_structured_output(schema, method=method)
    with pytest.raises(OutputParserException, match="max_tokens"):
        cut.invoke("What has it?")


def test_an_object_of_llama_index_fits_into_it(wordy: SteerableHFLLM) -> None:
    llm, prompt = wordy.as_llama_index(), PromptTemplate("What has it?")
    assert llm.structured_predict(Parts, prompt) == Parts(**LONG)
    assert list(llm.stream_structured_predict(Parts, prompt))[-1] == Parts(**LONG)
    assert llm.as_structured_llm(Parts).complete("What has it?").raw == Parts(**LONG)
    program = FunctionCallingProgram.from_defaults(Parts, prompt_template_str="?", llm=llm)
    assert program() == Parts(**LONG)
    with pytest.raises(InvalidInputError, match="max_tokens"):
        llm.structured_predict(Parts, prompt, {"max_tokens": 40})
    with pytest.raises(InvalidInputError, match=r"cut off.*max_tokens"):
        program(llm_kwargs={"max_tokens": 40})


def test_an_object_that_no_window_holds_names_what_to_change(wordy: SteerableHFLLM) -> None:
    small = SteerableHFLLM(wordy.model, wordy.tokenizer, context_window=200)
    asks = small.as_langchain().with_structured_output(Parts)
    with pytest.raises(OutputParserException, match="max_tokens"):
        asks.invoke("What has it?")
