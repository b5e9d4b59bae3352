"""The model's answers in LangChain's form."""

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from steerable_llm.model.generation import Generation, GenerationChunk

PROVIDER = "steerable-llm"


def to_result(answer: Generation, model_name: str) -> ChatResult:
    """Return a whole answer."""
    message = AIMessage(
        content=answer.text,
        tool_calls=[
            tool_call(name=call.name, args=call.arguments, id=call.id) for call in answer.tool_calls
        ],
        invalid_tool_calls=[
            invalid_tool_call(name=call.name, args=call.text, error=call.error)
            for call in answer.invalid_tool_calls
        ],
        usage_metadata=_usage(answer),
        response_metadata=_metadata(answer, model_name),
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def to_chunk(made: GenerationChunk, model_name: str) -> ChatGenerationChunk | None:
    """Return a piece of an answer; the last one tells what the whole was.

    None stands for a piece that tells nothing yet, because half a character or what may become a
    stop text or a tool call is held back.
    """
    if made.final is None:
        if not made.text and not made.calls:
            return None
        calls = [
            tool_call_chunk(name=call.name, args=call.arguments, id=call.id, index=call.index)
            for call in made.calls
        ]
        message = AIMessageChunk(content=made.text, tool_call_chunks=calls)
    else:
        # Only the last chunk has metadata, since LangChain joins the strings of all chunks.
        message = AIMessageChunk(
            content=made.text,
            usage_metadata=_usage(made.final),
            response_metadata=_metadata(made.final, model_name),
            chunk_position="last",
        )
    return ChatGenerationChunk(message=message)


def _metadata(answer: Generation, model_name: str) -> dict[str, Any]:
    return {
        "model_name": model_name,
        "model_provider": PROVIDER,
        "finish_reason": answer.finish_reason,
        "step": answer.step,
        "steering": [applied.to_dict() for applied in answer.steered],
        "decision": answer.decision.to_dict() if answer.decision else None,
    }


def _usage(answer: Generation) -> UsageMetadata:
    used = answer.usage
    return UsageMetadata(
        input_tokens=used.prompt_tokens,
        output_tokens=used.completion_tokens,
        total_tokens=used.prompt_tokens + used.completion_tokens,
    )
