"""What a chat model tells LangChain about itself: for caches, traces and agents."""

from typing import TYPE_CHECKING, Any

from langchain_core.language_models import LangSmithParams, ModelProfile

from steerable_llm.adapters.arguments import SAMPLING
from steerable_llm.model.hooked_model import SteerableHFLLM
from steerable_llm.policy.policy import describe

if TYPE_CHECKING:
    from steerable_llm.adapters.langchain import SteerableChatModel


def identity(model: "SteerableChatModel") -> dict[str, Any]:
    """Return everything that decides an answer: the cache's key, and what a trace shows."""
    return {
        **_of_engine(model.engine),
        "models": {name: _of_engine(engine) for name, engine in model.models.items()},
        **{name: getattr(model, name) for name in SAMPLING},
        "stop": model.stop,
        "step": model.step,
        "steering": None if model.steering is None else describe(model.steering),
    }


def trace_params(
    model: "SteerableChatModel", stop: list[str] | None, kwargs: dict[str, Any]
) -> LangSmithParams:
    """Return what LangSmith shows of a call."""
    params = LangSmithParams(
        ls_provider="steerable-llm",
        ls_model_type="chat",
        ls_model_name=str(kwargs.get("model", model.model_name)),
        ls_temperature=float(kwargs.get("temperature", model.temperature)),
        ls_max_tokens=int(kwargs.get("max_tokens", model.max_tokens)),
    )
    stops = model.stop if stop is None else stop
    if stops:
        params["ls_stop"] = stops
    return params


def profile(model: "SteerableChatModel") -> ModelProfile:
    """Return what the model can do; agents choose their ways by it."""
    return ModelProfile(
        max_input_tokens=model.engine.context_window,
        max_output_tokens=model.max_tokens,
        text_inputs=True,
        text_outputs=True,
        image_inputs=model.engine.supports_images,
        image_url_inputs=model.engine.supports_images,
        image_tool_message=model.engine.supports_images and model.engine.supports_tools,
        tool_calling=model.engine.supports_tools,
        tool_choice=model.engine.supports_tools,
        tool_call_streaming=model.engine.supports_tools,
        structured_output=True,  # by constrained decoding, on every model
    )


def _of_engine(engine: SteerableHFLLM) -> dict[str, Any]:
    return {
        "model": engine.fingerprint.short,
        "revision": engine.fingerprint.revision,
        "dtype": str(engine.model.dtype),
        "policy": None if engine.policy is None else engine.policy.digest,
    }
