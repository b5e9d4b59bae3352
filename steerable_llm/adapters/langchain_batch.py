"""The inputs of a LangChain batch, run together on the model."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ContextThreadPoolExecutor, get_config_list

from steerable_llm.adapters.gathering import Gathering
from steerable_llm.errors import InvalidInputError
from steerable_llm.model.hooked_model import SteerableHFLLM

if TYPE_CHECKING:
    from steerable_llm.adapters.langchain import SteerableChatModel

Configs = RunnableConfig | list[RunnableConfig] | None
_One = tuple[LanguageModelInput, RunnableConfig]


def run_batch(
    model: "SteerableChatModel",
    inputs: list[LanguageModelInput],
    config: Configs,
    return_exceptions: bool,
    kwargs: dict[str, Any],
) -> list[AIMessage]:
    """Answer all inputs, a group at a time; each goes through `invoke` with its own config."""
    answers: list[AIMessage] = []
    for group in _groups(model, inputs, config):
        gathering = Gathering(_engine(model, kwargs), len(group))

        def answer(one: _One, gathering: Gathering = gathering) -> AIMessage:
            with gathering.seat():
                try:
                    return model.invoke(one[0], one[1], **kwargs)
                except Exception as error:
                    if return_exceptions:
                        return cast(AIMessage, error)
                    raise

        with ContextThreadPoolExecutor(max_workers=len(group)) as threads:
            answers += threads.map(answer, group)
    return answers


async def arun_batch(
    model: "SteerableChatModel",
    inputs: list[LanguageModelInput],
    config: Configs,
    return_exceptions: bool,
    kwargs: dict[str, Any],
) -> list[AIMessage]:
    """Answer all inputs as `run_batch` does, while the event loop keeps turning."""
    answers: list[AIMessage] = []
    for group in _groups(model, inputs, config):
        gathering = Gathering(_engine(model, kwargs), len(group))

        async def answer(one: _One, gathering: Gathering = gathering) -> AIMessage:
            with gathering.seat():
                try:
                    return await model.ainvoke(one[0], one[1], **kwargs)
                except Exception as error:
                    if return_exceptions:
                        return cast(AIMessage, error)
                    raise

        answers += await asyncio.gather(*map(answer, group))
    return answers


def _engine(model: "SteerableChatModel", kwargs: dict[str, Any]) -> SteerableHFLLM:
    """Where the model calls go; a model that is not here is each input's own error."""
    try:
        return model.engine_for(kwargs)
    except InvalidInputError:
        return model.engine


def _groups(
    model: "SteerableChatModel", inputs: list[LanguageModelInput], config: Configs
) -> Iterator[list[_One]]:
    """Split a batch's inputs, each with its config, into what runs together."""
    if not inputs:
        return
    pairs = list(zip(inputs, get_config_list(config, len(inputs)), strict=True))
    size = min(model.batch_size, pairs[0][1].get("max_concurrency") or model.batch_size)
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
