"""Telling the step of a LlamaIndex call: by its prompt, and by tags on an engine's prompts.

Some calls tell no step by themselves: prompts that a user wrote are all of type `custom`, a chat
engine makes its prompts anew for each call, and others send plain text. A tag gives each a name.

LlamaIndex's own `update_prompts` would not do: it knows no chat engine, cannot reach a part of a
part, and a question generator drops the metadata of what it is given. So tags go where the prompts
are held.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Self, TypeVar

from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import BasePromptTemplate, SelectorPromptTemplate, chat_prompts
from llama_index.core.prompts.mixin import PromptMixin
from llama_index.core.query_engine import citation_query_engine
from llama_index.core.tools import QueryEngineTool
from llama_index.core.types import TokenAsyncGen, TokenGen
from llama_index.core.workflow import Workflow

from steerable_llm.adapters.llama_index.messages import base64_of
from steerable_llm.adapters.surroundings import steer_step, surroundings
from steerable_llm.errors import InvalidInputError, brief
from steerable_llm.policy.policy import Hint, Policy, choose_step

STEP = "steer_step"
"""Where a prompt's metadata names its step."""
PLACE = "steer_place"
"""Where a prompt's metadata says which of an engine's prompts it is."""
# LlamaIndex's own prompts for images and for citations bear no type; these words in their names
# tell it.
_KINDS = {
    "SIMPLE_INPUT": "simple_input",
    "CONTENT_QA": "text_qa",
    "CONTENT_REFINE": "refine",
    "CITATION_QA": "text_qa",
    "CITATION_REFINE": "refine",
    "TREE_SUMMARIZE": "summary",
    "CHOICE_SELECT": "choice_select",
}


def _kinds_by_template() -> dict[str, str]:
    found: dict[str, str] = {}
    for module in (chat_prompts, citation_query_engine):
        for name, prompt in vars(module).items():
            kind = next((kind for words, kind in _KINDS.items() if words in name), None)
            if kind is not None and isinstance(prompt, BasePromptTemplate):
                found[prompt.get_template()] = kind
    return found


_TEMPLATES = _kinds_by_template()


def _kind_of(prompt: BasePromptTemplate | None) -> str | None:
    """Return what LlamaIndex made a prompt for."""
    if prompt is None:
        return None
    kind = prompt.metadata.get("prompt_type")
    # An enum whose members are strings; str() of one would be "PromptType.REFINE".
    named = getattr(kind, "value", kind)
    if named in (None, "custom") and not isinstance(prompt, SelectorPromptTemplate):
        named = _TEMPLATES.get(prompt.get_template(), named)
    return named


def step_of(
    policy: Policy | None, prompt: BasePromptTemplate | None, named: str | None, own: str | None
) -> str | None:
    """Return the step of a call; None leaves it to the policy's default.

    Args:
        policy: What a name that LlamaIndex gave must match.
        prompt: The call's prompt, if it has one.
        named: The call's own argument.
        own: The model's field.
    """
    metadata = {} if prompt is None else prompt.metadata
    return choose_step(
        [
            named,
            own,
            metadata.get(STEP),
            # A place, where a tag runs a method that sends its prompt as plain text.
            surroundings().step,
            Hint(metadata.get(PLACE), "prompt_type"),
            Hint(_kind_of(prompt), "prompt_type"),
        ],
        policy,
    )


def filled_in(prompt: BasePromptTemplate, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the retrieved texts that are filled into a prompt, and images in base64.

    A place called `context_str` holds them where the prompt has another one for what is asked; the
    prompt for a made-up passage (HyDE) has its question there, and one for a summary its text.

    Raises:
        InvalidInputError: It is no prompt.
    """
    if not isinstance(prompt, BasePromptTemplate):
        raise InvalidInputError(
            f"the prompt is {brief(prompt)}: give a prompt template, such as PromptTemplate('...')"
        )
    values = {**prompt.kwargs, **arguments}
    asks = {"query_str", "query"} & {*values, *prompt.template_vars}
    texts = [values.get("context_msg"), values.get("context_str") if asks else None]
    for message in values.get("context_messages") or ():
        texts.append(getattr(message, "content", None))
        blocks = getattr(message, "blocks", ())
        texts += [base64_of(block) for block in blocks if isinstance(block, ImageBlock)]
    # Some synthesizers fill a list in, which prompts then show as Python writes one.
    shown = [str(text) if isinstance(text, list) else text for text in texts if text]
    return tuple(text for text in shown if isinstance(text, str) and text.strip())


def own_copy(prompt: BasePromptTemplate) -> BasePromptTemplate:
    """Return a copy that LlamaIndex may change; it sets a program's parser on its prompt."""
    marks = {key: prompt.metadata[key] for key in (STEP, PLACE) if key in prompt.metadata}
    return with_metadata(prompt, marks)


def with_metadata(prompt: BasePromptTemplate, metadata: Mapping[str, str]) -> BasePromptTemplate:
    """Return a copy of a prompt with these marks and no other; nothing of it is shared."""
    own = {key: value for key, value in prompt.metadata.items() if key not in (STEP, PLACE)}
    changed: dict[str, Any] = {"metadata": {**own, **metadata}}
    if isinstance(prompt, SelectorPromptTemplate):
        # What it chooses from is marked too: filling it in makes a new one from these.
        changed["default_template"] = with_metadata(prompt.default_template, metadata)
        if prompt.conditionals is not None:
            changed["conditionals"] = [
                (condition, with_metadata(choice, metadata))
                for condition, choice in prompt.conditionals
            ]
    return prompt.model_copy(update=changed)


class PromptedLLM(LLM):
    """An LLM that knows the step of a call from its prompt, as LlamaIndex's engines make it.

    LlamaIndex fills the prompt in and calls `chat` with messages alone, so each call runs on a copy
    that knows the step.
    """

    @abstractmethod
    def settled(
        self, prompt: BasePromptTemplate | None, *, retrieved: tuple[str, ...] = ()
    ) -> Self:
        """Return this model for calls that are made later, yet belong to here and now.

        Args:
            prompt: What tells the step, if it does.
            retrieved: Texts that are filled into the prompt.
        """

    def _prompted(self, prompt: BasePromptTemplate, arguments: Mapping[str, Any]) -> Self:
        return self.settled(prompt, retrieved=filled_in(prompt, arguments))

    def predict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Answer a filled-in prompt."""
        return super(PromptedLLM, self._prompted(prompt, prompt_args)).predict(
            prompt, **prompt_args
        )

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Answer a filled-in prompt while the event loop keeps turning."""
        return await super(PromptedLLM, self._prompted(prompt, prompt_args)).apredict(
            prompt, **prompt_args
        )

    def stream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenGen:
        """Answer a filled-in prompt piece by piece."""
        return super(PromptedLLM, self._prompted(prompt, prompt_args)).stream(prompt, **prompt_args)

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """Answer a filled-in prompt piece by piece while the event loop keeps turning."""
        return await super(PromptedLLM, self._prompted(prompt, prompt_args)).astream(
            prompt, **prompt_args
        )


T = TypeVar("T")
Function = Callable[..., Any]
_TAGS = "_steer_tags"

# What may hold prompts, or other things that do.
_PARTS = (PromptMixin, BaseChatEngine, QueryEngineTool)
# Templates whose text goes to `complete`, which knows no prompt: by what sends it.
_SENT_AS_TEXT = {
    "_condense_prompt_template": ("_condense_question", "_acondense_question"),
    "query_gen_prompt": ("_get_queries", "_aget_queries"),
}
# In engines that hold a model for images, these go to `chat` with the images that were found.
_HOLDS_IMAGES = "_multi_modal_llm"
_SENT_WITH_IMAGES = {
    "_context_template": ("synthesize", "asynthesize"),
    "_context_prompt_template": ("synthesize", "asynthesize"),
    "_text_qa_template": ("synthesize", "asynthesize"),
    "_image_qa_template": ("_get_response_with_images",),
}
# What prompts with images are called beside those with text, which they take the place of.
_SHORT = {
    "chat_content_qa": "text_qa",
    "chat_content_refine": "refine",
    "chat_summary": "summary",
    "context": "text_qa",
    "image_qa": "text_qa",
}
# A chat engine with this method makes its prompts in there, from other templates, call by call.
_MAKER = "_get_response_synthesizer"


def tag_prompts(engine: T, steps: str | Mapping[str, str] | None = None) -> T:
    """Write onto an engine's prompts which step each of them is.

    The engine gets copies of its prompts, so LlamaIndex's defaults and other engines' prompts stay
    as they are. (A part that two engines share, such as a synthesizer, is tagged for both.)

    Each prompt has a name that says where it is, such as `response_synthesizer:text_qa_template`,
    or `query_engines:handbook:response_synthesizer:refine_template` in a router. The last word,
    without `_template` or `_prompt`, is its place: `text_qa`, `refine`, `summary`, `hyde`,
    `condense`, `condense_question`, `query_gen`, `selector`, `question_gen`.

    Args:
        engine: A query engine, chat engine, retriever, synthesizer, selector or query transform.
        steps: One step for all prompts; or patterns to steps (`*` and `?` are wildcards, the first
            pattern that fits a prompt's name or place counts). A prompt that none fits, and every
            prompt if there are none, is of the step that is called as its place, if the policy
            has that step, else it is told as without a tag.

    Returns:
        The engine itself.

    Raises:
        InvalidInputError: The engine holds no prompt, or a pattern fits none.
    """
    if isinstance(engine, Workflow):
        raise InvalidInputError(
            f"a {type(engine).__name__} sends no prompts but messages: "
            "give it llm.for_step(...), or run it in a steer_step(...) block"
        )
    patterns = {"*": steps} if isinstance(steps, str) else dict(steps or {})
    places = list(_places(engine, "", set()))
    if not places:
        raise InvalidInputError(
            f"a {type(engine).__name__} holds no prompts to tag: "
            "give it llm.for_step(...), or call it in a steer_step(...) block"
        )
    for pattern in patterns:
        if not any(place.fits(pattern) for place in places):
            raise InvalidInputError(
                f"no prompt fits {pattern!r}; known: {', '.join(place.name for place in places)}"
            )
    for place in places:
        fitting = (step for pattern, step in patterns.items() if place.fits(pattern))
        step = next(fitting, None)
        place.tagger(place.holder, place.attribute, _Tag(step, place.short))
    return engine


@dataclass(frozen=True)
class _Tag:
    """What is written onto a prompt: a step, or else the name of its place."""

    step: str | None
    place: str

    @property
    def metadata(self) -> dict[str, str]:
        return {PLACE: self.place} if self.step is None else {STEP: self.step}

    def around(self) -> AbstractContextManager[None]:
        named = surroundings().step
        if self.step is None and isinstance(named, str):
            return nullcontext()  # a step that the developer named counts more than a place
        return steer_step(self.step or Hint(self.place, "prompt_type"))


def _tag_prompt(holder: Any, attribute: str, tag: _Tag) -> None:
    setattr(holder, attribute, with_metadata(getattr(holder, attribute), tag.metadata))


def _tag_sent(holder: Any, attribute: str, tag: _Tag) -> None:
    for method in _sent_by(holder)[attribute]:
        if hasattr(holder, method):
            _wrap(holder, method, tag, _run_inside)


def _sent_by(holder: Any) -> Mapping[str, tuple[str, ...]]:
    """Return the methods of an engine that send a template as plain text, by its attribute."""
    more = _SENT_WITH_IMAGES if hasattr(holder, _HOLDS_IMAGES) else {}
    return {**_SENT_AS_TEXT, **more}


def _tag_made(holder: Any, attribute: str, tag: _Tag) -> None:
    _wrap(holder, _MAKER, tag, _stamp_what_is_made, attribute)


@dataclass(frozen=True)
class _Place:
    """Where a prompt is: which attribute of which part of an engine, and how it is tagged there."""

    holder: Any
    attribute: str
    name: str
    tagger: Callable[[Any, str, _Tag], None]

    @property
    def short(self) -> str:
        """What the prompt is for, in one word."""
        # A selector calls its prompt "prompt": then the selector's name says what it is for.
        words = [word for word in self.name.split(":") if word != "prompt"] or [self.name]
        word = words[-1].removesuffix("_template").removesuffix("_prompt")
        return _SHORT.get(word, word)

    def fits(self, pattern: str) -> bool:
        return fnmatchcase(self.name, pattern) or fnmatchcase(self.short, pattern)


def _places(part: Any, path: str, seen: set[int]) -> Iterator[_Place]:
    """Find every prompt of an engine and of its parts."""
    if id(part) in seen:
        return
    seen.add(id(part))
    makes_prompts = hasattr(part, _MAKER)
    for attribute, value in list(getattr(part, "__dict__", {}).items()):
        name = path + attribute.removeprefix("_")
        if attribute in _sent_by(part):
            yield _Place(part, attribute, name, _tag_sent)
        elif isinstance(value, BasePromptTemplate) and not makes_prompts:
            yield _Place(part, attribute, name, _tag_prompt)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from _places_within(item, f"{name}:{key}:", seen)
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                yield from _places_within(item, f"{name}:{number}:", seen)
        else:
            yield from _places_within(value, f"{name}:", seen)
    if makes_prompts:
        for made in ("text_qa_template", "refine_template"):
            yield _Place(part, f"_{made}", f"{path}response_synthesizer:{made}", _tag_made)


def _places_within(value: Any, path: str, seen: set[int]) -> Iterator[_Place]:
    if isinstance(value, _PARTS):
        yield from _places(value, path, seen)


Tags = dict[str, _Tag]


def _wrap(
    holder: Any,
    method: str,
    tag: _Tag,
    wrapper: Callable[[Function, Tags], Function],
    key: str = "",
) -> None:
    """Wrap a method of this one object, once; tagging it again only changes the tags."""
    wrapped = holder.__dict__.get(method)
    if wrapped is None:
        tags: Tags = {}
        wrapped = wrapper(getattr(holder, method), tags)
        wrapped.__dict__[_TAGS] = tags
        setattr(holder, method, wrapped)
    wrapped.__dict__[_TAGS][key] = tag


def _run_inside(function: Function, tags: Tags) -> Function:
    """Make a function run inside the step."""
    if iscoroutinefunction(function):

        @wraps(function)
        async def arun(*args: Any, **kwargs: Any) -> Any:
            with tags[""].around():
                return await function(*args, **kwargs)

        return arun

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with tags[""].around():
            return function(*args, **kwargs)

    return run


def _stamp_what_is_made(make: Function, tags: Tags) -> Function:
    """Make a function tag the prompts of the synthesizer that it returns."""

    @wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        synthesizer = make(*args, **kwargs)
        for attribute, tag in tags.items():
            _tag_prompt(synthesizer, attribute, tag)
        return synthesizer

    return made
