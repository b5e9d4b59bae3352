"""One call as LangChain makes it, in the engine's words."""

from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from steerable_llm.adapters.arguments import SAMPLING, refuse_unknown
from steerable_llm.adapters.langchain_messages import to_plain_messages
from steerable_llm.adapters.langchain_tools import to_choice, to_constraint, to_tools

if TYPE_CHECKING:
    from steerable_llm.adapters.langchain import SteerableChatModel

# LangChain itself passes `stream`.
_CALL_ARGUMENTS = {
    *(*SAMPLING, "step", "context", "contrast", "stream", "model"),
    *("tools", "tool_choice", "strict", "parallel_tool_calls", "response_format"),
}


def to_call(
    model: "SteerableChatModel",
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """Return the engine's arguments for one call.

    Args:
        model: whose fields hold where the call says nothing.
        messages: what is asked.
        stop: the call's own stop texts.
        kwargs: its other arguments.

    Raises:
        InvalidInputError: an unknown argument, or one with a value that cannot be used.
    """
    refuse_unknown("call argument", set(kwargs), _CALL_ARGUMENTS)
    tools = to_tools(kwargs.get("tools") or (), kwargs.get("strict"))
    sampling = {theirs: kwargs.get(ours, getattr(model, ours)) for ours, theirs in SAMPLING.items()}
    return {
        "messages": to_plain_messages(messages),
        "steering": model.steering,
        "step": kwargs.get("step", model.step),
        "stop": model.stop if stop is None else stop,
        "tools": tools or None,
        "tool_choice": to_choice(kwargs.get("tool_choice"), tools),
        "parallel_tool_calls": kwargs.get("parallel_tool_calls") is not False,
        "constraint": to_constraint(kwargs.get("response_format")),
        "context": kwargs.get("context"),
        "contrast": kwargs.get("contrast"),
        # The one that the cache's key tells of, though the answer may be made later.
        "policy": model.engine_for(kwargs).policy,
        **sampling,
    }
