"""ChatHuggingFace over a local pipeline, and `llm.as_langchain()`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from observing import Watched, honoured, how_it_fails, loop_during, yes_or_no
from pydantic import BaseModel

from steerable_llm import SteerableHFLLM

TITLE = "LangChain"
THEIRS, OURS = "ChatHuggingFace", "as_langchain()"
NEEDS = ("langchain_huggingface", "langchain-huggingface")
QUESTION = "What is the capital of France?"
TOKENS = 32


class City(BaseModel):
    """A city."""

    name: Literal["Paris", "Lyon"]
    capital: bool


def opening(shop: str) -> str:
    """When a shop opens."""
    return shop


def make_theirs(llm: SteerableHFLLM) -> Any:
    """ChatHuggingFace over a pipeline of its own: greedy, and as many tokens."""
    from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
    from transformers import pipeline

    made = pipeline(
        "text-generation",
        model=llm.model,
        tokenizer=llm.tokenizer,
        max_new_tokens=TOKENS,
        do_sample=False,
    )
    inner = HuggingFacePipeline(pipeline=made)
    return ChatHuggingFace(llm=inner, model_id="demo", tokenizer=llm.tokenizer)


def make_ours(llm: SteerableHFLLM) -> Any:
    """This package's chat model."""
    return llm.as_langchain(max_tokens=TOKENS)


def answer(model: Any) -> str:
    """What the model says to the question."""
    return str(model.invoke(QUESTION).text)


def probes(llm: SteerableHFLLM, watched: Watched) -> dict[str, Callable[[Any], str]]:
    """What to find out."""
    from langchain_core.caches import InMemoryCache
    from langchain_core.globals import set_llm_cache
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

    def openings(model: Any) -> str:
        first = watched.seen(lambda: model.invoke(QUESTION))[0]
        return str(int((first == llm.tokenizer.bos_token_id).sum()))

    def rows(model: Any) -> str:
        return str(max(len(ids) for ids in watched.seen(lambda: model.batch([QUESTION] * 4))))

    def stop(model: Any) -> str:
        whole = model.invoke(QUESTION).text
        return honoured(model.invoke(QUESTION, stop=[whole.split()[-1]]).text, whole)

    def max_tokens(model: Any) -> str:
        return honoured(model.invoke(QUESTION, max_tokens=2).text, model.invoke(QUESTION).text)

    def metadata(model: Any) -> str:
        return ", ".join(sorted(model.invoke(QUESTION).response_metadata)) or "empty"

    def astream(model: Any) -> str:
        async def pieces() -> int:
            return len([piece async for piece in model.astream(QUESTION)])

        return "piece by piece" if asyncio.run(pieces()) > 2 else "in one piece"

    def after_a_tool(model: Any) -> str:
        call = {"name": "opening", "args": {"shop": "Lyon"}, "id": "call00001"}
        history = [
            HumanMessage("When does Lyon open?"),
            AIMessage("", tool_calls=[call]),
            ToolMessage("nine", tool_call_id="call00001"),
        ]
        model.invoke(history)
        return "answered"

    def tools(model: Any) -> str:
        model.bind_tools([opening]).invoke(QUESTION)
        return "answered as if there were none"

    def structured(model: Any) -> str:
        made = model.with_structured_output(City, method="json_schema").invoke(QUESTION)
        return f"a `{type(made).__name__}`"

    def cache(model: Any) -> str:
        # Weights that differ in one number are another model.
        other = SteerableHFLLM.demo()
        next(other.model.parameters()).data[0, 0] += 1
        make = make_ours if type(model) is type(make_ours(llm)) else make_theirs
        second = make(other)
        set_llm_cache(InMemoryCache())
        try:
            model.invoke(QUESTION)
            again = Watched(other.model).seen(lambda: second.invoke(QUESTION))
        finally:
            set_llm_cache(None)
        return "kept apart" if again else "one answers for the other"

    def too_long(model: Any) -> str:
        model.invoke("word " * 1000)
        return "answered all the same"

    return {
        "the prompt is part of the answer": lambda m: yes_or_no(
            QUESTION in m.invoke(QUESTION).text
        ),
        "begin-of-text tokens in the prompt": openings,
        "`invoke(..., stop=[...])`": stop,
        "`invoke(..., max_tokens=2)`": max_tokens,
        "`usage_metadata`": lambda m: yes_or_no(bool(m.invoke(QUESTION).usage_metadata)),
        "`response_metadata`": metadata,
        "`ainvoke`": lambda m: loop_during(lambda: m.ainvoke(QUESTION)),
        "`astream`": astream,
        "most rows in one pass, `batch` of 4": rows,
        "history with a `ToolMessage`, the chat template knows none": after_a_tool,
        "`bind_tools`, the chat template knows none": tools,
        '`with_structured_output(..., method="json_schema")`': structured,
        "two models of one name in one cache": cache,
        "prompt longer than the context window": too_long,
        "the model fails while streaming": lambda m: how_it_fails(
            watched, lambda: m.stream(QUESTION)
        ),
    }
