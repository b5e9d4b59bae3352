"""Constrained decoding: what an answer must look like, down to the last character."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self

import llguidance
import numpy as np
import torch
from pydantic import BaseModel
from tokenizers import decoders
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from steerable_llm.answer.schema import BY_NAME, NESTED, check_schema
from steerable_llm.errors import InvalidInputError, SteerableError

ConstraintKind = Literal["json_schema", "json_object", "regex", "choice"]

# Written as `json.dumps` does. White space of the model's own choice would let a weak model write
# blanks for ever.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class Constraint:
    """What an answer must look like. Make one with the class methods.

    Attributes:
        kind: What `source` is.
        source: The schema or the choices as JSON, or the regular expression.
        strict: Whether a schema keyword that cannot be guaranteed is an error; otherwise it is
            left to whoever validates the answer.
    """

    kind: ConstraintKind
    source: str = ""
    strict: bool = True

    @classmethod
    def json_schema(
        cls, schema: Mapping[str, Any] | type[BaseModel] | str, strict: bool = True
    ) -> Self:
        """Ask for JSON that follows a schema; objects have only the properties that it names.

        Args:
            schema: A JSON schema as a dict or as JSON text, or a pydantic model.
            strict: Refuse keywords that decoding cannot guarantee (`uniqueItems`, `not`).

        Raises:
            InvalidInputError: It is no JSON object, or has a type that there is not.
        """
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            schema = schema.model_json_schema()
        try:
            read = json.loads(schema) if isinstance(schema, str) else schema
            if not isinstance(read, Mapping):
                raise TypeError(f"it is a {type(read).__name__}")
            source = json.dumps(read, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"the JSON schema cannot be used ({error}): give a dict, its JSON text, or a "
                "pydantic model"
            ) from error
        check_schema(read)
        return cls("json_schema", source, strict)

    @classmethod
    def json_object(cls) -> Self:
        """Ask for any JSON object."""
        return cls("json_object")

    @classmethod
    def regex(cls, pattern: str) -> Self:
        """Ask for a text that a regular expression matches from end to end (no look-around).

        Raises:
            InvalidInputError: It is empty.
        """
        if not pattern:
            raise InvalidInputError("the regular expression is empty: give one that asks for text")
        return cls("regex", pattern)

    @classmethod
    def choice(cls, options: Sequence[str]) -> Self:
        """Ask for one of some texts.

        Raises:
            InvalidInputError: There are none, or one is empty.
        """
        if isinstance(options, str) or not options or not all(options):
            raise InvalidInputError(f"the choices are {options!r}: give a list of texts")
        return cls("choice", json.dumps(list(options), ensure_ascii=False))

    @property
    def grammar(self) -> str:
        """The body of a grammar rule (Lark, in llguidance's dialect)."""
        return _BODIES[self.kind](self)


def json_rule(schema: Mapping[str, Any], strict: bool = False) -> str:
    """Return the body of a rule for JSON that follows a schema.

    Raises:
        InvalidInputError: It is no JSON schema.
    """
    check_schema(schema)
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
    for key in BY_NAME & set(made):
        made[key] = {name: _closed(value) for name, value in made[key].items()}
    for key in NESTED & set(made):
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
    """Return a text as a grammar writes it."""
    return json.dumps(text, ensure_ascii=False)


_BODIES: dict[ConstraintKind, Callable[[Constraint], str]] = {
    "json_schema": lambda made: json_rule(json.loads(made.source), made.strict),
    "json_object": lambda _: json_rule({"type": "object"}),
    "regex": lambda made: _regex_rule(made.source),
    "choice": lambda made: " | ".join(map(text_rule, json.loads(made.source))),
}


class GrammarReader:
    """Follows grammars with one tokenizer's tokens."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int], vocabulary: int
    ) -> None:
        """Read the vocabulary once.

        Args:
            tokenizer: A fast one.
            end_ids: Tokens that end an answer; allowed once the grammar is fulfilled.
            vocabulary: How many scores the model gives, padding of its head included.
        """
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._refusal = ""
        try:
            self._tokenizer = _read(tokenizer, sorted(end_ids), vocabulary)
        except InvalidInputError as error:
            # Told whenever a grammar is asked for, and not looked into again.
            self._refusal = str(error)
        # A grammar is compiled once; its rows then go their own ways from copies.
        self._compiled = lru_cache(maxsize=32)(self._compile)

    def start(self, grammar: str, free: bool = False) -> GrammarState:
        """Begin an answer under a grammar.

        Args:
            grammar: In llguidance's dialect of Lark.
            free: Whether the answer may go on without it, should it turn out too complex.

        Raises:
            InvalidInputError: The tokenizer is a slow one, or of a kind that cannot be read; or
                the grammar asks for what cannot be guaranteed.
        """
        if self._tokenizer is None:
            raise InvalidInputError(self._refusal)
        return GrammarState(self._compiled(grammar).deep_copy(), self._tokenizer, free, grammar)

    def _compile(self, grammar: str) -> llguidance.LLMatcher:
        assert self._tokenizer is not None, "a grammar begins only where it can be followed"
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            # The report goes on with the place in a grammar that its reader never wrote.
            lines = matcher.get_error().split("\n   1 |")[0].splitlines()
            why = " ".join(line.strip() for line in lines if line.strip())
            raise InvalidInputError(
                f"this constraint cannot be guaranteed: {why}; leave out what it names"
            )
        return matcher


def _read(
    tokenizer: PreTrainedTokenizerBase, end_ids: list[int], vocabulary: int
) -> llguidance.LLTokenizer:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InvalidInputError(
            f"constrained answers need a fast tokenizer, and this is a "
            f"{type(tokenizer).__name__}: load the model with its tokenizer.json"
        )
    try:
        size = max(vocabulary, len(tokenizer))
        return llguidance.LLTokenizer(_readable(tokenizer), size, end_ids or None)
    except (ValueError, RuntimeError) as error:
        raise InvalidInputError(
            f"constrained answers are not possible with this tokenizer ({error}): take a model "
            "with a byte-level BPE or a SentencePiece tokenizer"
        ) from error


def _readable(tokenizer: PreTrainedTokenizerFast) -> str:
    """The tokenizer as JSON, its decoder in a form that llguidance knows.

    Of SentencePiece's decoders it reads the long form alone: blanks for marks, bytes, and no blank
    in front.

    Raises:
        ValueError: The vocabulary has pieces with a blank inside, which the short form reads
            otherwise than the long one where they come first.
    """
    backend = copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    decoder = backend.decoder
    if isinstance(decoder, decoders.Metaspace):
        blank = decoder.replacement
        if any(blank in piece.lstrip(blank) for piece in backend.get_vocab()):
            raise ValueError("it has pieces with a blank after their first letter")
        long = [decoders.Replace(blank, " "), decoders.ByteFallback(), decoders.Fuse()]
        if decoder.prepend_scheme != "never":
            long.append(decoders.Strip(" ", 1, 0))
        backend.decoder = decoders.Sequence(long)
    return str(backend.to_str())


class GrammarState:
    """How far one answer has come in its grammar.

    Attributes:
        free: Whether the answer may go on without the grammar, should it turn out too complex.
        text: The grammar, for an engine that has it followed in another process.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        tokenizer: llguidance.LLTokenizer,
        free: bool = False,
        text: str = "",
    ) -> None:
        """Start with nothing written."""
        self.free = free
        self.text = text
        self._paused = False
        self._matcher = matcher
        self._tokenizer = tokenizer

    def pause(self) -> None:
        """Allow every token from here on, while the model thinks."""
        self._paused = True

    def begin(self) -> None:
        """Go on with nothing written: the answer begins here."""
        self._paused = False
        self._matcher.reset()

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing may follow it."""
        if self._paused:
            return False
        return bool(self._matcher.is_stopped() and not self._matcher.is_error())

    @property
    def _reason(self) -> str:
        # What follows the first line is the whole state of the parser.
        return str(self._matcher.get_error()).partition("\n")[0]

    def take(self, token: int) -> None:
        """Go on by one token.

        Raises:
            SteerableError: The grammar does not allow it; that is a fault of this package.
        """
        if self._paused:
            return
        if not self._matcher.consume_token(token) and not self.free:
            raise SteerableError(
                f"the grammar refuses token {token}: {self._reason}; "
                "please report this with the constraint"
            )

    def masked(self, scores: Tensor) -> Tensor:
        """Return scores `[V]`, minus infinity for what is not allowed next; as is when complete."""
        if self.complete:
            return scores
        allowed = self.allowed(len(scores)).to(scores.device)
        return scores.masked_fill(~allowed, -torch.inf)

    def allowed(self, vocabulary: int) -> Tensor:
        """Return which tokens may come next, `[V]`.

        Raises:
            SteerableError: The grammar got too complex to be followed, or no token can follow.
        """
        if self._paused:
            return torch.ones(vocabulary, dtype=torch.bool)
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error() and self.free:
            return torch.ones(vocabulary, dtype=torch.bool)
        if self._matcher.is_error():
            raise SteerableError(
                f"the constraint cannot be followed ({self._reason}): simplify it, or see whether "
                "the model's vocabulary has the characters that it asks for"
            )
        flags = np.unpackbits(bits, bitorder="little")[:vocabulary].astype(bool)
        if flags.sum() == 1 and not self._matcher.validate_tokens([int(flags.argmax())]):
            # Where only one text can follow and it is spelt like a special token, llguidance
            # offers that token and then refuses it: the text's first byte is what it takes.
            first = self._matcher.compute_ff_bytes()[:1]
            flags[:] = False
            flags[self._tokenizer.greedy_tokenize(first.decode("latin-1"))] = True
        allowed = torch.from_numpy(flags)
        missing = vocabulary - len(flags)
        return torch.nn.functional.pad(allowed, (0, missing)) if missing > 0 else allowed
