"""Objects of a class, whatever the model would rather say and however it is steered."""

from typing import Any, Literal

import pytest
from adapter_models import RecordingLLM, last, random_vector
from llama_index.core import PromptTemplate
from llama_index.core.llms import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import PromptType
from llama_index.core.prompts.default_prompt_selectors import DEFAULT_TEXT_QA_PROMPT_SEL
from llama_index.core.prompts.default_prompts import DEFAULT_TEXT_QA_PROMPT
from llama_index.core.response_synthesizers import TreeSummarize
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, Field
from scripted import calling, scripted_llm

from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM, record_steering, steer_step
from steerable_llm.answer.constraint import Constraint
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.policy import Policy


class Opening(BaseModel):
    """When something opens."""

    hour: Literal[7, 8, 9]
    open: bool


PROMPT = PromptTemplate("{q}", PromptType.SUMMARY)


@pytest.fixture
def engine(tiny_llm: SteerableHFLLM) -> RecordingLLM:
    """A model that writes noise when it is left alone."""
    steps: dict[str, Any] = {name: {} for name in ("plain", "summary", "condense")}
    policy = Policy.from_dict({"default_step": "plain", "steps": steps}, {})
    return RecordingLLM(tiny_llm, policy, context_window=4096)


@pytest.fixture
def llm(engine: RecordingLLM) -> SteerableLlamaIndexLLM:
    return SteerableLlamaIndexLLM(llm=engine, max_tokens=64)


@pytest.fixture
def steered(engine: RecordingLLM) -> SteerableLlamaIndexLLM:
    """The same, pushed hard in a random direction."""
    steering = random_vector(engine, "a", 1).steer(3.0)
    return SteerableLlamaIndexLLM(llm=engine, max_tokens=64, steering=steering)


@pytest.mark.parametrize("push", [False, True])
async def test_every_way_of_asking_gives_an_object_under_the_prompts_step(
    llm: SteerableLlamaIndexLLM, steered: SteerableLlamaIndexLLM, push: bool
) -> None:
    model = steered if push else llm
    made = [
        model.structured_predict(Opening, PROMPT, q="?"),
        await model.astructured_predict(Opening, PROMPT, q="?"),
        list(model.stream_structured_predict(Opening, PROMPT, q="?"))[-1],
        await last(await model.astream_structured_predict(Opening, PROMPT, q="?")),
    ]
    assert {type(one) for one in made} == {Opening}
    assert made == [made[0]] * 4
    assert model.llm.steps == ["summary"] * 4  # type: ignore[attr-defined]


async def test_a_structured_model_says_what_its_objects_cost_and_what_steered_them(
    steered: SteerableLlamaIndexLLM,
) -> None:
    model = steered.as_structured_llm(Opening)
    message = [ChatMessage("When?")]
    with steer_step("condense"):
        responses = [model.chat(message), await model.achat(message)]
        streams = [model.stream_chat(message), model.stream_complete("When?")]
        astreams = [await model.astream_chat(message), await model.astream_complete("When?")]
        completions = [model.complete("When?"), await model.acomplete("When?")]
    # The streams are read after the block: their step was settled in it.
    pieces = [list(stream)[-1] for stream in streams] + [await last(s) for s in astreams]
    for response in [*responses, *pieces, *completions]:
        assert isinstance(response.raw, Opening)
        told = response.additional_kwargs
        assert [applied["name"] for applied in told["steering"]] == ["a"]
        assert told["step"] == "condense"
        assert 0 < told["completion_tokens"] <= 64
    assert Opening.model_validate_json(responses[0].message.content or "") == responses[0].raw


def test_a_structured_models_step_is_told_from_the_prompt_too(llm: SteerableLlamaIndexLLM) -> None:
    model = llm.as_structured_llm(Opening)
    Opening.model_validate_json(model.predict(PROMPT, q="When?"))
    engine = TreeSummarize(llm=model, summary_template=PromptTemplate("{context_str}{query_str}"))
    engine.get_response("When?", ["At nine."])
    assert llm.llm.steps == ["summary", None]  # type: ignore[attr-defined]


def test_an_object_that_was_cut_off_says_so(llm: SteerableLlamaIndexLLM) -> None:
    short = llm.model_copy(update={"max_tokens": 3})
    with pytest.raises(InvalidInputError, match="cut off after 3 tokens") as caught:
        short.structured_predict(Opening, PROMPT, q="?")
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInputError, match="cut off after 3 tokens"):
        list(short.stream_structured_predict(Opening, PROMPT, q="?"))


async def test_a_cut_off_object_says_so_without_blocking_too(llm: SteerableLlamaIndexLLM) -> None:
    with pytest.raises(InvalidInputError, match="larger max_tokens"):
        await llm.astructured_predict(Opening, PROMPT, {"max_tokens": 3}, q="?")
    stream = await llm.astream_structured_predict(Opening, PROMPT, {"max_tokens": 3}, q="?")
    with pytest.raises(InvalidInputError, match="larger max_tokens"):
        await last(stream)


def test_text_that_is_cut_within_an_object_is_not_taken_for_all_of_it(
    llm: SteerableLlamaIndexLLM,
) -> None:
    class Note(BaseModel):
        text: str = Field(min_length=60)

    with pytest.raises(InvalidInputError, match="cut off"):
        list(llm.stream_structured_predict(Note, PROMPT, {"max_tokens": 20}, q="?"))


async def test_the_text_of_a_structured_models_stream_is_the_objects_json(
    llm: SteerableLlamaIndexLLM,
) -> None:
    model = llm.as_structured_llm(Opening)
    whole = model.predict(PROMPT, q="When?")
    assert "".join(model.stream(PROMPT, q="When?")) == whole
    stream = await model.astream(PROMPT, q="When?")
    assert "".join([text async for text in stream]) == whole


def test_asking_for_an_object_leaves_prompts_as_they_were(llm: SteerableLlamaIndexLLM) -> None:
    llm.structured_predict(Opening, PROMPT, q="?")
    llm.structured_predict(
        Opening, DEFAULT_TEXT_QA_PROMPT_SEL, context_str="At nine.", query_str="When?"
    )
    assert PROMPT.output_parser is None
    assert DEFAULT_TEXT_QA_PROMPT_SEL.output_parser is None
    assert DEFAULT_TEXT_QA_PROMPT.output_parser is None


def test_records_get_each_object_once_wherever_its_stream_is_read(
    llm: SteerableLlamaIndexLLM,
) -> None:
    with record_steering() as record:
        later = llm.stream_structured_predict(Opening, PROMPT, q="?")
        list(llm.stream_structured_predict(Opening, PROMPT, q="?"))
    list(later)
    assert record.steps == ("summary", "summary")


def test_a_constraint_holds_in_plain_calls_too(llm: SteerableLlamaIndexLLM) -> None:
    yes_or_no = Constraint.choice(["yes", "no"])
    assert llm.complete("Open?", constraint=yes_or_no).text in {"yes", "no"}
    assert llm.chat([ChatMessage("Open?")], constraint=yes_or_no).message.content in {"yes", "no"}


def test_a_program_that_calls_a_function_is_there_for_who_asks_for_it() -> None:
    said = calling("Opening", {"hour": 9, "open": True})
    llm = scripted_llm({"When": said}).as_llama_index(max_tokens=128)
    by_function = llm.model_copy(update={"pydantic_program_mode": PydanticProgramMode.FUNCTION})
    assert by_function.structured_predict(Opening, PROMPT, q="When?") == Opening(hour=9, open=True)
    program = FunctionCallingProgram.from_defaults(Opening, "{q}", llm=llm)
    assert program(q="When?") == Opening(hour=9, open=True)


def test_what_is_asked_of_a_structured_model_is_honoured(llm: SteerableLlamaIndexLLM) -> None:
    model = llm.as_structured_llm(Opening)
    message = [ChatMessage("When?")]
    assert model.chat(message, step="condense").additional_kwargs["step"] == "condense"
    with pytest.raises(InvalidInputError, match="cut off after 2 tokens"):
        model.chat(message, max_tokens=2)
