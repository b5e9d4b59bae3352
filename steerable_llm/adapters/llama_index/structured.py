"""A model whose every answer is an object of a class, and what to say when one is not whole."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.base.llms.generic_utils import (
    astream_chat_to_completion_decorator,
    stream_chat_to_completion_decorator,
)
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    MessageRole,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import BasePromptTemplate, ChatPromptTemplate
from pydantic import BaseModel, ValidationError

from steerable_llm.adapters.llama_index.messages import record_of
from steerable_llm.adapters.llama_index.steps import PromptedLLM
from steerable_llm.adapters.surroundings import SteeringRecord
from steerable_llm.errors import InvalidInputError

if TYPE_CHECKING:
    from steerable_llm.adapters.llama_index.llm import SteerableLlamaIndexLLM


class SteerableStructuredLLM(PromptedLLM, StructuredLLM):
    """A model whose every answer is an object of a class, steered per step as the model is.

    The object is in a response's `raw`; what it cost and what steered it in `additional_kwargs`.
    In a stream, `raw` grows; only the last delta is text, since an object's JSON does not grow at
    its end alone.
    """

    @property
    def _model(self) -> "SteerableLlamaIndexLLM":
        return self.llm  # type: ignore[return-value]  # made by `as_structured_llm` alone

    def settled(
        self, prompt: BasePromptTemplate | None, *, retrieved: tuple[str, ...] = ()
    ) -> Self:
        """Return this model for calls that are made later, yet belong to here and now."""
        own = self._model.settled(prompt, retrieved=retrieved)
        return self.model_copy(update={"llm": own})

    def _recorded(self) -> tuple["SteerableLlamaIndexLLM", SteeringRecord]:
        record = SteeringRecord()
        return self._model.settled(None, record), record

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation with an object."""
        model, record = self._recorded()
        made = model.structured_predict(self.output_cls, _prompt(messages), kwargs)
        return self._response(made, record)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation with an object, while the event loop keeps turning."""
        model, record = self._recorded()
        made = await model.astructured_predict(self.output_cls, _prompt(messages), kwargs)
        return self._response(made, record)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation with an object that grows piece by piece."""
        model, record = self._recorded()
        objects = model.stream_structured_predict(self.output_cls, _prompt(messages), kwargs)

        def pieces() -> ChatResponseGen:
            whole = None
            for made in objects:
                if whole is not None:
                    yield self._response(whole, record, delta="")
                whole = made
            if whole is not None:
                yield self._response(whole, record, delta=whole.model_dump_json())

        return pieces()

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer a conversation with an object that grows, while the event loop keeps turning."""
        model, record = self._recorded()
        objects = await model.astream_structured_predict(self.output_cls, _prompt(messages), kwargs)

        async def pieces() -> ChatResponseAsyncGen:
            whole = None
            async for made in objects:
                if whole is not None:
                    yield self._response(whole, record, delta="")
                whole = made
            if whole is not None:
                yield self._response(whole, record, delta=whole.model_dump_json())

        return pieces()

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer one prompt with an object that grows piece by piece."""
        del formatted  # an object is always asked for in a conversation
        return stream_chat_to_completion_decorator(self.stream_chat)(prompt, **kwargs)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer one prompt with an object that grows, while the event loop keeps turning."""
        del formatted
        return await astream_chat_to_completion_decorator(self.astream_chat)(prompt, **kwargs)

    def _response(
        self, made: BaseModel, record: SteeringRecord, delta: str | None = None
    ) -> ChatResponse:
        message = ChatMessage(role=MessageRole.ASSISTANT, content=made.model_dump_json())
        # A stream's last objects come with the whole answer, the earlier ones before there is one.
        told = [record_of(answer, self.metadata.model_name) for answer in record.answers[-1:]]
        kwargs = told[0]["additional_kwargs"] if told else {}
        return ChatResponse(message=message, raw=made, delta=delta, additional_kwargs=kwargs)


def _prompt(messages: Sequence[ChatMessage]) -> ChatPromptTemplate:
    return ChatPromptTemplate(message_templates=list(messages))


@contextmanager
def say_why_half(record: SteeringRecord, output_cls: type[BaseModel]) -> Iterator[None]:
    """Say it plainly when an object cannot be read because the answer was cut off."""
    try:
        yield
    except ValueError as error:
        refuse_half(record, output_cls, error)
        raise


def refuse_half(
    record: SteeringRecord, output_cls: type[BaseModel], error: Exception | None = None
) -> None:
    """Raise if the last answer was cut off before its object was whole.

    Raises:
        InvalidInputError: It was.
    """
    for answer in record.answers[-1:]:
        if answer.finish_reason == "length" and not _is_whole(answer.text, output_cls):
            raise InvalidInputError(
                f"the answer was cut off after {answer.usage.completion_tokens} tokens, before "
                "the object was complete: give a larger max_tokens"
            ) from error


def _is_whole(text: str, output_cls: type[BaseModel]) -> bool:
    try:
        output_cls.model_validate_json(text)
    except ValidationError:
        return False
    return True
