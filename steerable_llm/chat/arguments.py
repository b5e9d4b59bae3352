"""What a chat template can be given beside messages and tools, such as `enable_thinking`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateError, meta
from transformers import PreTrainedTokenizerBase

from steerable_llm.errors import InvalidInputError, unknown

# What is given to a template with every prompt, or what transformers takes for itself.
_OURS = frozenset(
    {
        *("messages", "tools", "add_generation_prompt", "conversation", "chat_template"),
        *("continue_final_message", "tokenize", "tokenizer_kwargs", "sanitize_control_tokens"),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict"),
        "return_assistant_tokens_mask",
    }
)
_HELPERS = frozenset({"raise_exception", "strftime_now", "dict", "namespace", "range"})
# Blocks of transformers' own, around what an assistant wrote.
_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
_JINJA = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True)


def check_arguments(arguments: Any) -> None:
    """Refuse what no template can be given, whichever it is.

    Raises:
        InvalidInputError: It is not by name, one is set here, or a value is none that JSON has.
    """
    if arguments is None:
        return
    if not isinstance(arguments, Mapping) or not all(isinstance(x, str) for x in arguments):
        raise InvalidInputError(
            f"chat_template_kwargs is {arguments!r}: give values by name, such as "
            '{"enable_thinking": False}'
        )
    for name, value in arguments.items():
        if name in _OURS:
            raise InvalidInputError(
                f"chat_template_kwargs holds {name!r}, which is set with every prompt: leave it "
                "out; messages and tools are arguments of the call"
            )
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise InvalidInputError(
                f"chat_template_kwargs holds {name!r}, a {type(value).__name__} that JSON cannot "
                "hold: give texts, numbers, truth values, None, or lists and dicts of them"
            ) from None


def check_read(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
    """Refuse what a template would pass over: who misspells a switch would never know.

    Raises:
        InvalidInputError: The tokenizer's chat template does not read one of them.
    """
    known = _variables(tokenizer)
    for name in arguments:
        if name not in known:
            what = unknown("variable of this model's chat template", name, known)
            raise InvalidInputError(f"chat_template_kwargs: {what}; leave it out for this model")


def _variables(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """What a template reads beside what it is always given."""
    template = tokenizer.chat_template or ""
    texts = template.values() if isinstance(template, dict) else [template]
    found = frozenset[str]().union(*map(_read_by, texts))
    return found - _OURS - _HELPERS - set(tokenizer.special_tokens_map)


@lru_cache(maxsize=32)
def _read_by(template: str) -> frozenset[str]:
    plain = _GENERATION.sub("", template)
    try:
        return frozenset(meta.find_undeclared_variables(_JINJA.parse(plain)))
    except TemplateError:  # of a dialect that is not known here: any of its words may be one
        return frozenset(re.findall(r"[^\W\d]\w*", plain))
