"""Answers that are objects of a class.

They are asked for under a constraint: whatever the model would rather say, and however it is
steered, what it writes is JSON of that class.
"""

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any, Self

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
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, PrivateAttr, ValidationError

from steerable_llm.adapters.llama_index.messages import record_of
from steerable_llm.adapters.llama_index.steps import PromptedLLM, own_copy
from steerable_llm.adapters.recording import SteeringRecord, current_records
from steerable_llm.answer.constraint import Constraint
from steerable_llm.errors import InvalidInputError

# Programs for models that call tools pass these on; an object in plain JSON needs none of them.
_FOR_TOOLS = {"tool_required", "tool_choice", "allow_parallel_tool_calls"}
# In the other modes the caller asks for a program of another kind, and gets it.
_CONSTRAINED = (PydanticProgramMode.DEFAULT, PydanticProgramMode.LLM)


class ObjectLLM(PromptedLLM):
    """An LLM that answers with objects of a class when it is asked for them."""

    # Of a copy that is settled: its step is what it says, whatever holds when it is called.
    _settled: bool = PrivateAttr(default=False)
    _records: tuple[SteeringRecord, ...] = PrivateAttr(default=())

    def settled(self, prompt: BasePromptTemplate | None, *records: SteeringRecord) -> Self:
        """Return this model for calls that are made later, yet belong to here and now."""
        constrained = self.pydantic_program_mode in _CONSTRAINED
        mode = PydanticProgramMode.LLM if constrained else self.pydantic_program_mode
        twin = self.model_copy(
            update={"step": self._step_of(prompt), "pydantic_program_mode": mode}
        )
        twin._settled = True
        twin._records = (*self._here(), *records)
        return twin

    def _here(self) -> tuple[SteeringRecord, ...]:
        """Where an answer to a call that is made now is taken down; in each record once."""
        return tuple(dict.fromkeys((*self._records, *current_records())))

    def structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        """Answer a filled-in prompt with an object of a class.

        Raises:
            InvalidInputError: `max_tokens` were not enough for the object.
        """
        record = SteeringRecord()
        twin, asked = self.settled(prompt, record), self._asked(output_cls, llm_kwargs)
        try:
            return super(ObjectLLM, twin).structured_predict(
                output_cls, own_copy(prompt), asked, **prompt_args
            )
        except ValueError as error:
            _refuse_half(record, output_cls, error)
            raise

    async def astructured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        """Answer a filled-in prompt with an object, while the event loop keeps turning.

        Raises:
            InvalidInputError: `max_tokens` were not enough for the object.
        """
        record = SteeringRecord()
        twin, asked = self.settled(prompt, record), self._asked(output_cls, llm_kwargs)
        try:
            return await super(ObjectLLM, twin).astructured_predict(
                output_cls, own_copy(prompt), asked, **prompt_args
            )
        except ValueError as error:
            _refuse_half(record, output_cls, error)
            raise

    def stream_structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        """Answer a filled-in prompt with an object that grows piece by piece.

        Raises:
            InvalidInputError: `max_tokens` were not enough for the object, at the stream's end.
        """
        record = SteeringRecord()
        twin, asked = self.settled(prompt, record), self._asked(output_cls, llm_kwargs)
        objects = super(ObjectLLM, twin).stream_structured_predict(
            output_cls, own_copy(prompt), asked, **prompt_args
        )

        def whole() -> Generator[Any, None, None]:
            yield from objects
            _refuse_half(record, output_cls)

        return whole()

    async def astream_structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> AsyncGenerator[Any, None]:
        """Answer a filled-in prompt with an object that grows, while the loop keeps turning.

        Raises:
            InvalidInputError: `max_tokens` were not enough for the object, at the stream's end.
        """
        record = SteeringRecord()
        twin, asked = self.settled(prompt, record), self._asked(output_cls, llm_kwargs)
        objects = await super(ObjectLLM, twin).astream_structured_predict(
            output_cls, own_copy(prompt), asked, **prompt_args
        )

        async def whole() -> AsyncGenerator[Any, None]:
            async for made in objects:
                yield made
            _refuse_half(record, output_cls)

        return whole()

    def _asked(self, output_cls: type[BaseModel], given: dict[str, Any] | None) -> dict[str, Any]:
        """Return the arguments of the call that asks for the object."""
        if self.pydantic_program_mode not in _CONSTRAINED:
            return dict(given or {})
        # Keywords of a schema that decoding cannot guarantee are checked by the class itself.
        constraint = Constraint.json_schema(output_cls, strict=False)
        own = {name: value for name, value in (given or {}).items() if name not in _FOR_TOOLS}
        return {"constraint": constraint, **own}

    def as_structured_llm(
        self, output_cls: type[BaseModel], **kwargs: Any
    ) -> "SteerableStructuredLLM":
        """Return this model as one whose every answer is an object of a class."""
        return SteerableStructuredLLM(llm=self, output_cls=output_cls, **kwargs)


class SteerableStructuredLLM(PromptedLLM, StructuredLLM):
    """A model whose every answer is an object of a class, steered per step as the model is.

    The object is in a response's `raw`; what it cost and what steered it in `additional_kwargs`.
    In a stream, `raw` grows; only the last delta is text, since an object's JSON does not grow at
    its end alone.
    """

    @property
    def _model(self) -> ObjectLLM:
        assert isinstance(self.llm, ObjectLLM)  # made by `as_structured_llm` alone
        return self.llm

    def _step_of(self, prompt: BasePromptTemplate | None = None, named: Any = None) -> str | None:
        return self._model._step_of(prompt, named)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation with an object."""
        record = SteeringRecord()
        model = self._model.settled(None, record)
        return self._response(
            model.structured_predict(self.output_cls, _prompt(messages), kwargs), record
        )

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation with an object, while the event loop keeps turning."""
        record = SteeringRecord()
        model = self._model.settled(None, record)
        made = await model.astructured_predict(self.output_cls, _prompt(messages), kwargs)
        return self._response(made, record)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation with an object that grows piece by piece."""
        record = SteeringRecord()
        model = self._model.settled(None, record)
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
        record = SteeringRecord()
        model = self._model.settled(None, record)
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


def _refuse_half(
    record: SteeringRecord, output_cls: type[BaseModel], error: Exception | None = None
) -> None:
    """Say it plainly when an object is not whole because the answer was cut off."""
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
