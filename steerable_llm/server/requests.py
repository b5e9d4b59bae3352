"""What clients send: OpenAI's requests, read into the model's own.

What would change the answer and is not supported is refused; any other field is passed over. An
image is taken as a data: URL, or from the web where the model was given hosts; never from a file.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from steerable_llm.answer.constraint import Constraint
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.logs.answers import Passage
from steerable_llm.server.closed import Closed
from steerable_llm.server.refusals import Refused
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Steering

# What OpenAI's and other servers' requests may hold that this one does not honour, with the values
# that ask for nothing. None never asks for anything.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "functions": ([],),
    "function_call": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "suffix": ("",),
    "echo": (False,),
    "best_of": (1,),
    "step": (),
    "steer_step": (),
    # Of vLLM, llama.cpp, Ollama and the like.
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "logits_processors": ([],),
    "prompt_logprobs": (0, False),
    "truncate_prompt_tokens": (-1,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "documents": ([],),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "grammar": ("",),
    "json_schema": (),
    "format": ("",),
    "typical_p": (1,),
    "tfs_z": (1,),
    "repeat_penalty": (1,),
    "mirostat": (0,),
    "num_ctx": (),
    "keep_alive": (),
    "lora_request": (),
    "regex": (),
    "ebnf": (),
    "stop_sequences": ([],),
    "n_predict": (-1,),
    "num_predict": (-1,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "no_repeat_ngram_size": (0,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "top_a": (0,),
    "enable_thinking": (),
    "thinking": (),
    "reasoning": (),
    "extra_body": ({},),
}
_INSTEAD = {
    "frequency_penalty": "penalise what was said already with repetition_penalty",
    "presence_penalty": "penalise what was said already with repetition_penalty",
    "repeat_penalty": "it is called repetition_penalty here",
    "functions": "give tools",
    "function_call": "give tool_choice",
    "best_of": "give n, and choose",
    "extra_body": "it is of the Python client, which puts what it holds beside the other fields",
    "stop_sequences": "give stop",
    **dict.fromkeys(("n_predict", "num_predict"), "give max_tokens"),
    **dict.fromkeys(("step", "steer_step"), "give steering.step"),
    **dict.fromkeys(
        ("enable_thinking", "thinking"), "give chat_template_kwargs, if the template reads any"
    ),
    "reasoning": "give reasoning_effort",
    "documents": "put the documents into the messages, and tell them in steering.context",
    **dict.fromkeys(
        ("guided_json", "guided_regex", "guided_choice", "structured_outputs", "format",
         "json_schema", "regex", "ebnf"), "give response_format"),
}  # fmt: skip


class _Ignoring(BaseModel):
    """A part of a request whose other fields mean nothing here."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TextPart(_Ignoring):
    """Text in the content of a message."""

    type: Literal["text"]
    text: str


class RefusalPart(_Ignoring):
    """What an assistant said in place of an answer."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(_Ignoring):
    """An image, as `data:image/png;base64,...`, or where it is in the web."""

    url: str

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if url.startswith(("https://", "http://")):
            return url  # whether it may be fetched the model says
        head, _, body = url.partition(",")
        if not (head.startswith("data:image/") and head.endswith(";base64")):
            raise ValueError(
                "give the image as data:image/...;base64,..., or as a http(s) address of a host "
                "that the server was told (--image-host)"
            )
        try:
            base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise ValueError(f"the image is no base64 ({error})") from None
        return url

    @property
    def source(self) -> bytes | str:
        """The bytes of its file, or its address."""
        head, _, body = self.url.partition(",")
        return base64.b64decode(body) if head.startswith("data:") else self.url


class ImagePart(_Ignoring):
    """An image in the content of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | RefusalPart | ImagePart, Field(discriminator="type")]


class CalledFunction(_Ignoring):
    """The function of a call, its arguments as JSON."""

    name: str
    arguments: str = ""


class Call(_Ignoring):
    """A call that an assistant has asked for."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(_Ignoring):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    def told(self) -> dict[str, Any]:
        """Return it as the model reads messages."""
        said = self.model_dump(exclude={"content", "role"}, exclude_none=True)
        if self.role != "assistant":
            said.pop("reasoning_content", None)
            said.pop("tool_calls", None)
        if self.role != "tool":
            said.pop("tool_call_id", None)
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self._content(), **said}

    def _content(self) -> str | list[dict[str, Any]] | None:
        if not isinstance(self.content, list):
            return self.content
        made: list[dict[str, Any]] = []
        for part in self.content:
            if isinstance(part, ImagePart):
                made.append({"type": "image", "image": part.image_url.source})
            else:
                text = part.text if isinstance(part, TextPart) else part.refusal
                made.append({"type": "text", "text": text})
        return made


class Function(BaseModel):
    """A function that may be called."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(_Ignoring):
    """A tool: a function."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Ignoring):
    """The name of a function."""

    name: str


class NamedTool(_Ignoring):
    """The choice of one tool."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(_Ignoring):
    """An answer in no particular form."""

    type: Literal["text"]


class JsonFormat(_Ignoring):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class Schema(_Ignoring):
    """A JSON schema with its name."""

    name: str = "answer"
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class SchemaFormat(_Ignoring):
    """An answer that follows a JSON schema."""

    type: Literal["json_schema"]
    json_schema: Schema


ResponseFormat = Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")]


class StreamOptions(_Ignoring):
    """What a stream tells beside the answer."""

    include_usage: bool = False


class ContrastOption(Closed):
    """A contrast with the prompt without its context (CAD)."""

    kind: Literal["cad", "adacad"] = "cad"
    alpha: float = 1.0


class SteeringOptions(Closed):
    """What a request says of its steering; the policy decides the rest.

    Attributes:
        step: The step of the policy.
        enabled: False answers without any steering.
        context: Whether the prompt holds retrieved text, or the retrieved passages, which the
            answer log then keeps.
        contrast: In place of the step's own.
    """

    step: str | None = Field(default=None, max_length=256)
    enabled: bool = True
    context: bool | list[str | Passage] | None = None
    contrast: ContrastOption | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if not self.enabled and self.contrast is not None:
            raise ValueError("a contrast is steering, and enabled is false: give one of them")
        return self

    @property
    def passages(self) -> tuple[Passage, ...]:
        """The retrieved passages, each with an id."""
        given = self.context if isinstance(self.context, list) else []
        return tuple(
            one if isinstance(one, Passage) else Passage(id=f"passage-{place}", text=one)
            for place, one in enumerate(given, 1)
        )


_Stop = Annotated[str, Field(max_length=1000)]


# What asks for nothing, whichever field it is in.
_NOTHING_ASKED: tuple[Any, ...] = ([], {}, "", False, "none", "auto", {"type": "text"})


class _Request(BaseModel):
    """What both kinds of requests have."""

    # What else is there is looked through for what would change the answer.
    model_config = ConfigDict(frozen=True, extra="allow")

    model: str = Field(max_length=512)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(default=None, description="0 and -1 mean all.")
    min_p: float | None = None
    repetition_penalty: float | None = None
    # What is looked through at every token is bounded: one request must not slow all others down.
    logit_bias: dict[int, float] | None = Field(default=None, max_length=1024)
    seed: int | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=32)] | None = None
    n: int | None = Field(default=None, ge=1)
    steering: SteeringOptions | None = None
    store: bool | None = Field(default=None, description="False keeps it out of the answer log.")

    @property
    def includes_usage(self) -> bool:
        """Whether the stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def told_steering(self) -> SteeringOptions:
        """What is said of the steering."""
        return self.steering or SteeringOptions()

    @classmethod
    def field_of(cls, argument: str | None) -> str | None:
        """Return the field that the model's own request calls so."""
        return argument

    def refuse_unsupported(self) -> None:
        """Refuse what would change the answer and is not supported.

        Raises:
            Refused: There is such a field.
        """
        without_effect = {**_WITHOUT_EFFECT, **self._of_other_requests()}
        for name, value in (self.model_extra or {}).items():
            if name in without_effect and value is not None and value not in without_effect[name]:
                instead = _INSTEAD.get(name, "leave it out")
                raise Refused(
                    400,
                    f"{name} is not supported here and would change the answer: {instead}",
                    code="unsupported_parameter",
                    param=name,
                )

    @classmethod
    def _of_other_requests(cls) -> dict[str, tuple[Any, ...]]:
        """Return the fields that only the other endpoint reads."""
        fields = {
            name
            for other in _Request.__subclasses__()
            for name in other.model_fields.keys() - cls.model_fields.keys()
        }
        return dict.fromkeys(fields, _NOTHING_ASKED)

    def _sampling(self, most_tokens: int | None, asked: int | None) -> dict[str, Any]:
        if asked is not None and most_tokens is not None and asked > most_tokens:
            raise Refused(
                400,
                f"{asked} tokens are asked for, and this server writes at most {most_tokens}: "
                "ask for fewer",
                code="too_many_tokens",
                param="max_tokens",
            )
        held = {
            "max_new_tokens": asked,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "logit_bias": self.logit_bias,
            "seed": self.seed,
            "stop": self.stop,
        }
        told: dict[str, Any] = {k: value for k, value in held.items() if value is not None}
        steering = self.told_steering
        if not steering.enabled:
            told["steering"] = Steering.none()
        elif steering.contrast is not None:
            told["contrast"] = Contrast(steering.contrast.kind, steering.contrast.alpha)
        if steering.context is not None:
            texts = [passage.text for passage in steering.passages]
            told["context"] = steering.context if isinstance(steering.context, bool) else texts
        return told


class ChatRequest(_Request):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[FunctionTool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None

    def prompts(self, most_tokens: int | None = None) -> list[dict[str, Any]]:
        """Return the arguments of the model's requests, one for each prompt."""
        asked = (
            self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        )
        told = self._sampling(most_tokens, asked)
        template = dict(self.chat_template_kwargs or {})
        if self.reasoning_effort is not None:
            template["reasoning_effort"] = self.reasoning_effort
        more = {
            "logprobs": self.logprobs,
            "top_logprobs": self.top_logprobs,
            "tools": [tool.model_dump(exclude_unset=True) for tool in self.tools or ()] or None,
            "tool_choice": self.tool_choice.function.name
            if isinstance(self.tool_choice, NamedTool)
            else self.tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "constraint": self._constraint(),
            "chat_template_kwargs": template or None,
        }
        told |= {name: value for name, value in more.items() if value is not None}
        return [{"messages": [message.told() for message in self.messages], **told}]

    def _constraint(self) -> Constraint | None:
        form = self.response_format
        if isinstance(form, SchemaFormat):
            schema = form.json_schema
            return Constraint.json_schema(schema.schema_, strict=bool(schema.strict))
        return Constraint.json_object() if isinstance(form, JsonFormat) else None


class CompletionRequest(_Request):
    """`POST /v1/completions`: the prompt is taken as it is, without the chat template."""

    prompt: str | list[str]
    logprobs: int | None = None

    @classmethod
    def field_of(cls, argument: str | None) -> str | None:
        """Return the field that the model's own request calls so."""
        names = {"messages": "prompt", "top_logprobs": "logprobs"}
        return argument if argument is None else names.get(argument, argument)

    def prompts(self, most_tokens: int | None = None) -> list[dict[str, Any]]:
        """Return the arguments of the model's requests, one for each prompt."""
        told = self._sampling(most_tokens, self.max_tokens)
        if self.logprobs is not None:
            told |= {"logprobs": True, "top_logprobs": self.logprobs}
        texts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if not texts or not all(texts):
            raise Refused(
                400, "the prompt is empty: give a text", code="invalid_value", param="prompt"
            )
        return [{"messages": text, **told} for text in texts]


def choices_of(request: GenerationRequest, n: int) -> list[GenerationRequest]:
    """Return a request as often as answers are wanted, each after the first with its own seed."""
    if request.seed is None:
        return [request] * n
    return [replace(request, seed=request.seed + number) for number in range(n)]


@dataclass(frozen=True)
class ModelName:
    """The model and the step that a request names.

    Attributes:
        served: As clients call the model.
        step: Of the policy; None leaves it to the policy's default.
    """

    served: str
    step: str | None = None

    @classmethod
    def read(
        cls, name: str, told: str | None, served: str, steps: Sequence[str] | None
    ) -> ModelName:
        """Read the name in a request, which may be `name:step`.

        Args:
            name: As the request has it.
            told: The step that it names beside that.
            served: What the model is called.
            steps: Of the policy; None where there is none.

        Raises:
            Refused: It is another model's name, two steps are named, or there is no policy.
        """
        head, colon, step = name[: len(served)], name[len(served) :][:1], name[len(served) + 1 :]
        if head != served or colon not in ("", ":") or (colon and not step):
            a_step = f", or for a step, as in {f'{served}:{steps[0]}'!r}" if steps else ""
            raise Refused(
                404, f"the model {name!r} does not exist here: ask for {served!r}{a_step}",
                code="model_not_found", param="model",
            )  # fmt: skip
        if colon and told is not None and told != step:
            raise Refused(
                400, f"the model names step {step!r} and steering.step {told!r}: name one",
                code="two_steps", param="steering.step",
            )  # fmt: skip
        found = step if colon else told
        if found is not None and steps is None:
            raise Refused(
                400, f"this server has no policy, and so no step {found!r}: leave it out",
                code="unknown_step", param="steering.step",
            )  # fmt: skip
        return cls(served, found)
