"""Telling the step of a LangChain call from its arguments, metadata, block, graph node and tags."""

from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import BaseCallbackManager, Callbacks
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

from steerable_llm.policy.step import Hint, choose_step, current_step

if TYPE_CHECKING:
    from steerable_llm.adapters.langchain import SteerableChatModel

TAG = "steer:"


def tell_step(
    model: "SteerableChatModel",
    arguments: dict[str, Any],
    config: RunnableConfig | dict[str, Any] | None,
    callbacks: Callbacks = None,
) -> None:
    """Put the step into a call's arguments, if anything names one.

    Args:
        model: whose field `step`, tags and metadata count.
        arguments: the call's keyword arguments, changed in place.
        config: the call's own config; that of the chain around it is added here.
        callbacks: the callback manager, where it travels apart from the config.
    """
    merged = ensure_config(cast(RunnableConfig | None, config))
    manager = callbacks or merged.get("callbacks")
    around = manager if isinstance(manager, BaseCallbackManager) else None
    # The nearest wins: the call's own, then what the chain around it carries, then the model's.
    metadata = {
        **(model.metadata or {}),
        **(around.metadata if around else {}),
        **(merged.get("metadata") or {}),
    }
    tags = [*(merged.get("tags") or []), *(around.tags if around else []), *(model.tags or [])]
    step = choose_step(
        [
            arguments.get("step"),
            model.step,
            metadata.get("steer_step"),
            current_step(),
            Hint(metadata.get("langgraph_node"), "node"),
            next((tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)), None),
            *(Hint(tag, "tag") for tag in tags),
        ],
        model.engine_for(arguments).policy,
    )
    arguments.pop("step", None)
    if step is not None:
        arguments["step"] = step
