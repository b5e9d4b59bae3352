"""LangChain's own acceptance tests, with everything switched on that a text model can do."""

import json
import re
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import langchain_tests.integration_tests.chat_models
import pytest
from adapter_models import under_three_steps
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from PIL import Image
from scripted import calling, scripted_llm
from vision_models import vision_llm

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.web_images import WebImages

JOKE = {"setup": "Why was the cat on the keyboard?", "punchline": "To watch the mouse."}
# What a capable model would say to these tests, by what is asked last.
CALLS = {
    "value of magic_function(3)": ("magic_function", {"input": 3}),
    "magic_function_no_args()": ("magic_function_no_args", {}),
    "Pirate greeting": ("greeting_generator", {"answer_style": "pirate"}),
    "weather in San Francisco": ("get_weather", {"location": "San Francisco, CA"}),
    "What is 3 + 4": ("my_adder_tool", {"a": 3, "b": 4}),
    "你好啊集团": ("unicode_customer", {"customer_name": "你好啊集团", "description": "Tech"}),
    "こんにちは": ("unicode_customer", {"customer_name": "こんにちは株式会社", "description": "-"}),
}


def capable(prompt: str) -> str:
    """What a capable model would say."""
    last = prompt.removesuffix("<|end|><|assistant|>").rpartition("<|end|>")[2]
    has_tools = "<tool_call>" in prompt.partition("<|end|>")[0]
    for words, (name, arguments) in CALLS.items():
        if words in last and has_tools:
            return calling(name, arguments)
    if "joke" in last:
        tool = re.search(r'"name": "(\w*[Jj]oke\w*)"', prompt)
        return calling(tool[1], JOKE) if tool and has_tools else json.dumps(JOKE)
    if "Hello!" in last and has_tools:
        return calling("magic_function", {"input": 1})
    return "A fair question, and here is the answer."


class Capable:
    """The engine and the switches that both sets of tests share.

    What stays off, and is skipped by LangChain's own tests, is what a local text model has not:
    documents and sound in messages, keys in the environment, HTTP that could be recorded, and
    weights that could be written into JSON. Images are for vision-language models: see below.
    """

    @pytest.fixture(autouse=True)
    def _give_engine(self, capable_llm: SteerableHFLLM) -> None:
        type(self).engine = capable_llm  # type: ignore[attr-defined]

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return SteerableChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        engine = type(self).engine  # type: ignore[attr-defined]
        other = SteerableHFLLM(engine.model, engine.tokenizer, model_id="other")
        return {"llm": engine, "models": {"other": other}}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {**super().standard_chat_model_params, "max_tokens": 200}  # type: ignore[misc]

    has_tool_calling = True
    has_tool_choice = True
    has_structured_output = True
    supports_json_mode = True
    supports_anthropic_inputs = True
    returns_usage_metadata = True
    supports_model_override = True
    model_override_value = "other"


@pytest.fixture(scope="module")
def capable_llm(tiny_llm: SteerableHFLLM) -> SteerableHFLLM:
    """A hooked model that knows the answers, under a policy whose default step steers."""
    llm = scripted_llm(capable)
    return under_three_steps(llm, default="answer")


class TestStandardUnit(Capable, ChatModelUnitTests):
    """The tests that need no answer."""


# LangChain calls its third event protocol beta, and says so on each use.
@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
class TestStandardIntegration(Capable, ChatModelIntegrationTests):
    """The tests that ask for answers, structured ones by the schema itself."""

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}


class _ByCalling(Capable, ChatModelIntegrationTests):
    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}


class _Seeing(ChatModelIntegrationTests):
    """The tests with images, for a vision-language model whose template also knows tools."""

    supports_image_inputs = True
    supports_image_urls = True
    supports_image_tool_message = True

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return SteerableChatModel


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("name", ["test_image_inputs", "test_image_tool_message"])
def test_images_pass(family: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = BytesIO()
    Image.new("RGB", (40, 50), (200, 30, 30)).save(picture, "PNG")
    # The tests take their picture from the web, and so does the model that is given its address.
    answer = SimpleNamespace(content=picture.getvalue())
    httpx = langchain_tests.integration_tests.chat_models.httpx
    monkeypatch.setattr(httpx, "get", lambda *_, **__: answer)
    monkeypatch.setattr(WebImages, "fetch", lambda *_: answer.content)
    asked: list[int] = []
    llm = vision_llm(family)
    engine: Any = llm.engine
    monkeypatch.setattr(engine, "submit", counting(engine.submit, asked))
    getattr(_Seeing(), name)(SteerableChatModel(llm=llm, max_tokens=5))
    assert asked == [1] * (3 if name == "test_image_inputs" else 2)


def counting(submit: Any, images: list[int]) -> Any:
    """Answer, and count the images of each prompt."""

    def submitted(prompt: Any, *args: Any, **kwargs: Any) -> Any:
        pixels = prompt.vision["pixel_values"]
        images.append(len(prompt.vision.get("image_grid_thw", pixels)))
        return submit(prompt, *args, **kwargs)

    return submitted


@pytest.mark.parametrize("kind", ["pydantic", "typeddict", "json_schema"])
async def test_structured_output_by_calling_a_tool_passes_too(
    capable_llm: SteerableHFLLM, kind: Any
) -> None:
    model = SteerableChatModel(llm=capable_llm, max_tokens=200)
    _ByCalling().test_structured_output(model, kind)
    await _ByCalling().test_structured_output_async(model, kind)


@pytest.mark.parametrize(
    "name", ["test_structured_output_pydantic_2_v1", "test_structured_output_optional_param"]
)
def test_the_other_structured_outputs_pass_by_calling_too(
    capable_llm: SteerableHFLLM, name: str
) -> None:
    getattr(_ByCalling(), name)(SteerableChatModel(llm=capable_llm, max_tokens=200))
