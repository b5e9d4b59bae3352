"""HuggingFaceLLM, and `llm.as_llama_index()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from observing import Watched, honoured, how_it_fails, loop_during, yes_or_no
from pydantic import BaseModel

from steerable_llm import SteerableHFLLM

TITLE = "LlamaIndex"
THEIRS, OURS = "HuggingFaceLLM", "as_llama_index()"
NEEDS = ("llama_index.llms.huggingface", "llama-index-llms-huggingface")
QUESTION = "What is the capital of France?"
TOKENS = 32


class City(BaseModel):
    """A city."""

    name: Literal["Paris", "Lyon"]
    capital: bool


def make_theirs(llm: SteerableHFLLM) -> Any:
    """HuggingFaceLLM over the same weights: greedy, and as many tokens."""
    from llama_index.llms.huggingface import HuggingFaceLLM

    return HuggingFaceLLM(
        model=llm.model,
        tokenizer=llm.tokenizer,
        context_window=llm.context_window,
        max_new_tokens=TOKENS,
        generate_kwargs={"do_sample": False},
    )


def make_ours(llm: SteerableHFLLM) -> Any:
    """This package's LLM."""
    return llm.as_llama_index(max_tokens=TOKENS)


def answer(model: Any) -> str:
    """What the model says to the question."""
    return str(model.complete(QUESTION).text)


def probes(llm: SteerableHFLLM, watched: Watched) -> dict[str, Callable[[Any], str]]:
    """What to find out."""
    from llama_index.core import PromptTemplate
    from llama_index.core.base.llms.types import ImageBlock, TextBlock
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool

    message = [ChatMessage(QUESTION)]
    bare = len(llm.tokenizer(QUESTION)["input_ids"])

    def templated(model: Any) -> str:
        return yes_or_no(watched.seen(lambda: model.complete(QUESTION))[0].shape[1] > bare)

    def openings(model: Any) -> str:
        first = watched.seen(lambda: model.chat(message))[0]
        return str(int((first == llm.tokenizer.bos_token_id).sum()))

    def stop(model: Any) -> str:
        whole = model.chat(message).message.content
        return honoured(model.chat(message, stop=[whole.split()[-1]]).message.content, whole)

    def max_tokens(model: Any) -> str:
        whole = model.chat(message).message.content
        return honoured(model.chat(message, max_tokens=2).message.content, whole)

    def system(model: Any) -> str:
        # As a query engine sends it, and with the field that LlamaIndex has for it.
        brief = model.model_copy(update={"system_prompt": "Answer only from the documents."})
        asked = watched.seen(lambda: brief.predict(PromptTemplate("{q}"), q=QUESTION))[0]
        return yes_or_no("<|system|>" in llm.tokenizer.decode(asked[0]))

    def tools(model: Any) -> str:
        tool = FunctionTool.from_defaults(lambda shop: shop, name="opening")
        model.chat_with_tools([tool], user_msg=QUESTION)
        return "answered"

    def structured(model: Any) -> str:
        made = model.structured_predict(City, PromptTemplate("{q}"), q=QUESTION)
        return f"a `{type(made).__name__}`"

    def image(model: Any) -> str:
        picture = ImageBlock(url="https://example.org/shop.png")
        model.chat([ChatMessage([TextBlock(text=QUESTION), picture])])
        return "dropped without a word"

    def usage(model: Any) -> str:
        raw = model.complete(QUESTION).raw
        return yes_or_no("usage" in raw)

    def too_long(model: Any) -> str:
        model.complete("word " * 1000)
        return "answered all the same"

    return {
        "`metadata.is_chat_model`": lambda m: yes_or_no(m.metadata.is_chat_model),
        "`complete` uses the chat template": templated,
        "begin-of-text tokens in a chat's prompt": openings,
        "`system_prompt` reaches the model as a system message": system,
        "`chat(..., stop=[...])`": stop,
        "`chat(..., max_tokens=2)`": max_tokens,
        "usage in `raw`": usage,
        "`acomplete`": lambda m: loop_during(lambda: m.acomplete(QUESTION)),
        "`achat`": lambda m: loop_during(lambda: m.achat(message)),
        "`chat_with_tools`, the chat template knows none": tools,
        "`structured_predict`": structured,
        "an image in a message": image,
        "prompt longer than the context window": too_long,
        "the model fails while streaming": lambda m: how_it_fails(
            watched, lambda: m.stream_complete(QUESTION)
        ),
    }
