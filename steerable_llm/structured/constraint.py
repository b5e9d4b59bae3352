"""What an answer must look like, down to the last character: constrained decoding.

A constraint becomes a grammar; llguidance tells before each token which ones the grammar still
allows, and all others are ruled out. Whatever the model prefers, and however it is steered, a
finished answer then follows the grammar. Why this library: docs/decisions/0005.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel

from steerable_llm.errors import InvalidInputError

ConstraintKind = Literal["json_schema", "json_object", "regex", "choice"]

# Written as `json.dumps` does. White space of the model's own choice would let a weak model write
# blanks for ever.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


_BY_NAME = {"properties", "patternProperties", "$defs", "definitions"}
_NESTED = {"items", "prefixItems", "additionalProperties", "anyOf", "oneOf"}


@dataclass(frozen=True)
class Constraint:
    """What an answer must look like. Make one with the class methods.

    Attributes:
        kind: what `source` is.
        source: the schema or the choices as JSON, or the regular expression.
        strict: whether a schema keyword that cannot be guaranteed is an error; otherwise it is
            left to whoever validates the answer.
    """

    kind: ConstraintKind
    source: str = ""
    strict: bool = True

    @classmethod
    def json_schema(
        cls, schema: Mapping[str, Any] | type[BaseModel] | str, strict: bool = True
    ) -> Self:
        """JSON that follows a schema; objects have only the properties that it names.

        Args:
            schema: a JSON schema as a dict or as JSON text, or a pydantic model.
            strict: refuse keywords that decoding cannot guarantee (`uniqueItems`, `not`).

        Raises:
            InvalidInputError: it is no JSON object.
        """
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            schema = schema.model_json_schema()
        try:
            read = json.loads(schema) if isinstance(schema, str) else schema
            if not isinstance(read, Mapping):
                raise TypeError(f"it is a {type(read).__name__}")
            return cls("json_schema", json.dumps(read, ensure_ascii=False), strict)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"the JSON schema cannot be used ({error}): give a dict, its JSON text, or a "
                "pydantic model"
            ) from error

    @classmethod
    def json_object(cls) -> Self:
        """Any JSON object."""
        return cls("json_object")

    @classmethod
    def regex(cls, pattern: str) -> Self:
        """A text that a regular expression matches from end to end (no look-around).

        Raises:
            InvalidInputError: it is empty.
        """
        if not pattern:
            raise InvalidInputError("the regular expression is empty: give one that asks for text")
        return cls("regex", pattern)

    @classmethod
    def choice(cls, options: Sequence[str]) -> Self:
        """One of some texts.

        Raises:
            InvalidInputError: there are none, or one is empty.
        """
        if isinstance(options, str) or not options or not all(options):
            raise InvalidInputError(f"the choices are {options!r}: give a list of texts")
        return cls("choice", json.dumps(list(options), ensure_ascii=False))

    @property
    def grammar(self) -> str:
        """The body of a grammar rule (Lark, in llguidance's dialect)."""
        return _BODIES[self.kind](self)


def json_rule(schema: Mapping[str, Any], strict: bool = False) -> str:
    """The body of a rule for JSON that follows a schema."""
    style = {**_JSON_STYLE, "coerce_one_of": True, "lenient": not strict}
    # The parts of an `allOf` each name some of the properties: none of them could be closed.
    closed = schema if '"allOf"' in json.dumps(schema) else _closed(schema)
    return "%json " + json.dumps({**closed, "x-guidance": style}, ensure_ascii=False)


def _closed(schema: Any) -> Any:
    """The schema without properties that it does not name, unless it says that there may be.

    JSON schema allows them, nobody means it, and a weak model would go on inventing them.
    """
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for key in _BY_NAME & set(made):
        made[key] = {name: _closed(value) for name, value in made[key].items()}
    for key in _NESTED & set(made):
        value = made[key]
        made[key] = [_closed(item) for item in value] if isinstance(value, list) else _closed(value)
    if "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


def _regex_rule(pattern: str) -> str:
    """The pattern between slashes; its own slashes and line breaks are escaped."""
    written = {"/": "\\/", "\n": "\\n", "\\\n": "\\n"}
    parts = re.sub(r"\\.|/|\n", lambda m: written.get(m[0], m[0]), pattern, flags=re.DOTALL)
    return f"/{parts}/"


def text_rule(text: str) -> str:
    """A text as a grammar writes it."""
    return json.dumps(text, ensure_ascii=False)


_BODIES: dict[ConstraintKind, Callable[[Constraint], str]] = {
    "json_schema": lambda made: json_rule(json.loads(made.source), made.strict),
    "json_object": lambda _: json_rule({"type": "object"}),
    "regex": lambda made: _regex_rule(made.source),
    "choice": lambda made: " | ".join(map(text_rule, json.loads(made.source))),
}
