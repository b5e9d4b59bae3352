"""HuggingFaceLLM, and `llm.as_llama_index()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from observing import Side, Watched, honoured, how_it_fails, loop_during, yes_or_no
from pydantic import BaseModel

from steerable_llm import SteerableHFLLM

QUESTION = "What is the capital of France?"
TOKENS = 24


class City(BaseModel):
    """A city."""

    name: str
    capital: bool


def make(llm: SteerableHFLLM, watched: Watched) -> Side:
    """Both on the same weights, greedy, with as many tokens."""
    from llama_index.llms.huggingface import HuggingFaceLLM

    theirs = HuggingFaceLLM(
        model=llm.model, tokenizer=llm.tokenizer, context_window=llm.context_window,
        max_new_tokens=TOKENS, generate_kwargs={"do_sample": False},
    )  # fmt: skip
    ours = llm.as_llama_index(max_tokens=TOKENS)
    answers = {
        "HuggingFaceLLM": theirs.complete(QUESTION).text,
        "as_llama_index()": ours.complete(QUESTION).text,
    }
    return Side(
        "LlamaIndex", "HuggingFaceLLM", "as_llama_index()", theirs, ours, QUESTION, answers,
        probes(llm, watched),
    )  # fmt: skip


def probes(llm: SteerableHFLLM, watched: Watched) -> dict[str, Callable[[Any], str]]:
    """What to find out."""
    from llama_index.core import PromptTemplate
    from llama_index.core.base.llms.types import ImageBlock
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
        whole = model.complete(QUESTION).text
        return honoured(model.complete(QUESTION, stop=[whole.split()[-1]]).text, whole)

    def max_tokens(model: Any) -> str:
        return honoured(model.complete(QUESTION, max_tokens=2).text, model.complete(QUESTION).text)

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
        model.chat([ChatMessage([ImageBlock(url="https://example.org/shop.png")])])
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
        "`complete(..., stop=[...])`": stop,
        "`complete(..., max_tokens=2)`": max_tokens,
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
