"""The chat model with call arguments or a config bound to it, which tools and forms leave."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig

from steerable_llm.adapters.langchain.messages import ToolLike
from steerable_llm.adapters.langchain.structured import structured_output

if TYPE_CHECKING:
    from steerable_llm.adapters.langchain.chat_model import SteerableChatModel

# What a form for the answer takes the place of.
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls", "strict", "response_format")


class SteeredBinding(RunnableBinding[LanguageModelInput, AIMessage]):  # type: ignore[no-redef]
    """What `bind`, `with_config` and `bind_tools` of the chat model return.

    LangChain's own binding makes these methods those of the bare model: an agent that binds its
    tools to `chat.bind(step="agent")` would lose the step. Some of its code also goes for `bound`,
    the model inside; so a step is told there, too.
    """

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the name that LangChain writes, which is that of its own binding."""
        return RunnableBinding.lc_id()

    def bind(self, **kwargs: Any) -> Self:
        """Return this with more call arguments."""
        return self._renewed(kwargs=kwargs)

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Self:
        """Return this with more config; what it names is taken over as LangChain does."""
        return self._renewed(config={**(config or {}), **kwargs})

    def bind_tools(self, tools: Sequence[ToolLike], **kwargs: Any) -> Self:
        """Return this with tools; the arguments are those of the chat model's own method."""
        made = self.bound.bind_tools(tools, **kwargs)  # type: ignore[attr-defined]
        return self.bind(**made.kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Return this with answers in the form of a schema, as the chat model's own method does."""
        left = {name: value for name, value in self.kwargs.items() if name not in _TOOLS}
        return structured_output(self.model_copy(update={"kwargs": left}), schema, **kwargs)

    def for_step(self, step: str | None) -> Self:
        """Return this for another step; it shares the weights."""
        left = {name: value for name, value in self.kwargs.items() if name != "step"}
        bound = self.bound.for_step(step)  # type: ignore[attr-defined]
        return self.model_copy(update={"bound": bound, "kwargs": left})

    def _renewed(
        self, kwargs: Mapping[str, Any] | None = None, config: Mapping[str, Any] | None = None
    ) -> Self:
        bound = named_in(self.bound, kwargs or {}, config or {})
        return self.model_copy(
            update={
                "bound": bound,
                "kwargs": {**self.kwargs, **(kwargs or {})},
                "config": cast(RunnableConfig, {**self.config, **(config or {})}),
            }
        )


def binding(
    model: "SteerableChatModel",
    kwargs: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> SteeredBinding:
    """Return a chat model with call arguments and a config."""
    return SteeredBinding(bound=model, kwargs={}, config={})._renewed(kwargs, config)


def named_in(bound: Any, kwargs: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Return a model that knows the step that is bound around it; others are left as they are."""
    if not hasattr(bound, "knowing"):
        return bound
    if kwargs.get("step") is not None:
        bound = bound.for_step(kwargs["step"])
    return bound.knowing(config)
