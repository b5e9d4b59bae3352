"""ChatHuggingFace over a local pipeline, and `llm.as_langchain()`."""

from __future__ import annotations

import asyncio
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


def opening(shop: str) -> str:
    """When a shop opens."""
    return shop


def make(llm: SteerableHFLLM, watched: Watched) -> Side:
    """Both on the same weights, greedy, with as many tokens."""
    from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
    from transformers import pipeline

    made = pipeline(
        "text-generation", model=llm.model, tokenizer=llm.tokenizer,
        max_new_tokens=TOKENS, do_sample=False,
    )  # fmt: skip
    theirs = ChatHuggingFace(
        llm=HuggingFacePipeline(pipeline=made), model_id="demo", tokenizer=llm.tokenizer
    )
    ours = llm.as_langchain(max_tokens=TOKENS)
    answers = {
        "ChatHuggingFace": theirs.invoke(QUESTION).text,
        "as_langchain()": ours.invoke(QUESTION).text,
    }
    return Side(
        "LangChain", "ChatHuggingFace", "as_langchain()", theirs, ours, QUESTION, answers,
        probes(llm, watched),
    )  # fmt: skip


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
        other = SteerableHFLLM.demo()
        side = make_other(model, other)
        set_llm_cache(InMemoryCache())
        try:
            model.invoke(QUESTION)
            again = Watched(other.model).seen(lambda: side.invoke(QUESTION))
        finally:
            set_llm_cache(None)
        return "kept apart" if again else "one answers for the other"

    def make_other(model: Any, other: SteerableHFLLM) -> Any:
        """The same class with weights that differ in one number."""
        next(other.model.parameters()).data[0, 0] += 1
        if type(model).__name__ == "ChatHuggingFace":
            from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
            from transformers import pipeline

            made = pipeline(
                "text-generation", model=other.model, tokenizer=other.tokenizer,
                max_new_tokens=TOKENS, do_sample=False,
            )  # fmt: skip
            return ChatHuggingFace(
                llm=HuggingFacePipeline(pipeline=made), model_id="demo", tokenizer=other.tokenizer
            )
        return other.as_langchain(max_tokens=TOKENS)

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
        "history with a `ToolMessage`": after_a_tool,
        "`bind_tools`, the chat template knows none": tools,
        '`with_structured_output(..., method="json_schema")`': structured,
        "two models of one name in one cache": cache,
        "prompt longer than the context window": too_long,
        "the model fails while streaming": lambda m: how_it_fails(
            watched, lambda: m.stream(QUESTION)
        ),
    }
