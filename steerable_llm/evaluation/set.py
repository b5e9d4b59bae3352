"""Held-out questions, and how an answer to one of them is judged.

An answer is judged by the **value** it gives, never by how it opens: an item lists the phrases
that a right answer contains and those that a wrong one contains. The judge knows words, not
meaning ("not Lyon" contains "Lyon"), so phrases have to be chosen with that in mind.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, Self, overload

from pydantic import BaseModel, ValidationError, field_validator, model_validator

from steerable_llm.chat.message import (
    Message,
    Text,
    as_messages,
    by_name,
    read_beside,
    written_beside,
)
from steerable_llm.chat.phrases import normalise, occurs, says_only
from steerable_llm.errors import InvalidInputError, first_problem, told_to_pydantic
from steerable_llm.files import read_json_lines, write_json_lines
from steerable_llm.pairs.pair import Pairs, PreferencePair


class EvaluationItem(BaseModel, frozen=True, extra="forbid"):
    """One held-out prompt with what a right and a wrong answer contain.

    Attributes:
        id: Names the item in reports; unique within a set.
        category: The kind of prompt, such as "conflict", "gold", "irrelevant", "unanswerable",
            "paraphrase", "closed_book", "reading", "civility" or "myth".
        messages: The chat up to the answer; a plain string means one user message.
        good: A right answer in full, for the preference margin.
        bad: A wrong answer in full, for the preference margin.
        accept: Phrases of which a right answer contains at least one; empty means any answer.
        reject: Phrases of which a right answer contains none.
        document_ids: The documents that the prompt shows.
    """

    id: str
    category: str
    messages: tuple[Message, ...]
    good: Text | None = None
    bad: Text | None = None
    accept: tuple[str, ...] = ()
    reject: tuple[str, ...] = ()
    document_ids: tuple[str, ...] = ()

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise InvalidInputError(
                f"evaluation item {data.get('id', '(no id)')!r}: {first_problem(error)}"
            ) from None

    @field_validator("messages", mode="before")
    @classmethod
    @told_to_pydantic()
    def _in_one_form(cls, value: object) -> object:
        return as_messages(value) if isinstance(value, str | Sequence) else value

    @model_validator(mode="after")
    def _something_to_judge(self) -> Self:
        if not all(normalise(phrase) for phrase in (*self.accept, *self.reject)):
            raise ValueError("accept and reject phrases must not be blank; leave them out instead")
        if not (self.has_verdict or self.has_preference):
            raise ValueError("nothing to judge by; give accept or reject phrases, or good and bad")
        both = set(map(normalise, self.accept)) & set(map(normalise, self.reject))
        if both:
            raise ValueError(f"{sorted(both)[0]!r} is both accepted and rejected; keep it in one")
        return self

    @property
    def has_verdict(self) -> bool:
        """Whether a generated answer can be called right or wrong (`succeeds`)."""
        return bool(self.accept or self.reject)

    @property
    def has_preference(self) -> bool:
        """Whether the item has a good and a bad answer to compare."""
        return self.good is not None and self.bad is not None

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The messages as plain dicts, as chat templates take them."""
        return [{**message} for message in self.messages]

    @property
    def question(self) -> str:
        """The last user message, for showing in a report."""
        users = [message.content for message in self.messages if message.role == "user"]
        return (users or [message.content for message in self.messages])[-1]

    def succeeds(self, text: str) -> bool:
        """Return whether the answer gives a right value and no wrong one.

        Raises:
            InvalidInputError: The item has neither accept nor reject phrases.
        """
        if not self.has_verdict:
            raise InvalidInputError(
                f"evaluation item {self.id!r} has no accept or reject phrases, so an answer to it "
                "cannot be called right or wrong; add some, or use its good and bad answers"
            )
        if any(occurs(phrase, text) for phrase in self.reject):
            return False
        return not self.accept or any(occurs(phrase, text) for phrase in self.accept)

    def contains_good(self, text: str) -> bool:
        """Return whether any accepted phrase occurs, even beside a rejected one (containment)."""
        return any(occurs(phrase, text) for phrase in self.accept)

    def matches(self, text: str) -> bool:
        """Return whether the answer is `good` or an accepted phrase, but for case and marks."""
        wanted = (*self.accept, *([self.good] if self.good is not None else []))
        return any(says_only(text, phrase) for phrase in wanted)


class EvaluationSet(Sequence[EvaluationItem]):
    """A named, immutable list of held-out items."""

    def __init__(self, name: str, items: Iterable[EvaluationItem]) -> None:
        """Keep the items in the order given.

        Raises:
            InvalidInputError: The set is empty, or two items share an id.
        """
        self.name = name
        self.items = tuple(items)
        if not self.items:
            raise InvalidInputError(f"evaluation set {name!r} is empty; give at least one item")
        (twice, times), *_ = Counter(item.id for item in self.items).most_common(1)
        if times > 1:
            raise InvalidInputError(
                f"evaluation set {name!r} has two items with id {twice!r}; make ids unique"
            )

    @overload
    def __getitem__(self, index: int) -> EvaluationItem: ...
    @overload
    def __getitem__(self, index: slice) -> EvaluationSet: ...
    def __getitem__(self, index: int | slice) -> EvaluationItem | EvaluationSet:
        if isinstance(index, slice):
            return EvaluationSet(self.name, self.items[index])
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EvaluationSet):
            return NotImplemented
        return (self.name, self.items) == (other.name, other.items)

    def __hash__(self) -> int:
        return hash((self.name, self.items))

    def __repr__(self) -> str:
        return f"EvaluationSet({self.name!r}, {len(self)} items, categories={[*self.categories]})"

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories that occur, in order of first appearance."""
        return tuple(dict.fromkeys(item.category for item in self.items))

    def category(self, *names: str) -> EvaluationSet:
        """Return the items of these categories.

        Raises:
            InvalidInputError: A category does not occur; the message lists those that do.
        """
        unknown = [name for name in names if name not in self.categories]
        if unknown:
            raise InvalidInputError(
                f"evaluation set {self.name!r} has no category {unknown[0]!r}; "
                f"it has {', '.join(self.categories)}"
            )
        return EvaluationSet(self.name, [item for item in self.items if item.category in names])

    def sample(self, per_category: int, seed: int = 0) -> EvaluationSet:
        """Draw at most so many items of every category, and return them in their order."""
        random = Random(seed)
        chosen: set[str] = set()
        for category in self.categories:
            ids = [item.id for item in self.items if item.category == category]
            chosen.update(random.sample(ids, min(per_category, len(ids))))
        return EvaluationSet(self.name, [item for item in self.items if item.id in chosen])

    def pairs(self) -> Pairs:
        """Return the items with a good and a bad answer as preference pairs."""
        return Pairs(
            PreferencePair(
                messages=item.messages,
                good=item.good,
                bad=item.bad,
                source=f"{self.name}/{item.category}",
                document_ids=item.document_ids,
                id=item.id,
            )
            for item in self.items
            if item.good is not None and item.bad is not None
        )

    @classmethod
    def from_pairs(
        cls, name: str, pairs: Pairs, category: str = "pairs", phrases: bool = False
    ) -> Self:
        """Make a set of pairs, all of one category.

        Pairs carry no accept phrases, so only preferences are judged, unless `phrases` takes the
        answers' own words as what a right answer has and a wrong one has not.
        """
        return cls(
            name,
            [
                EvaluationItem(
                    id=pair.id or f"{category}-{number}",
                    category=category,
                    messages=pair.messages,
                    good=pair.good,
                    bad=pair.bad,
                    accept=(_words(pair.good),) if phrases else (),
                    reject=(_words(pair.bad),) if phrases and pair.bad is not None else (),
                    document_ids=pair.document_ids,
                )
                for number, pair in enumerate(pairs)
            ],
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the items (not the name): says which data a number was measured on."""
        lines = (json.dumps(_plain(item), sort_keys=True) for item in self.items)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str], name: str | None = None) -> Self:
        """Read one item per line; blank lines are skipped.

        Raises:
            InvalidInputError: A line is not a valid item; the message names file and line.
        """
        has = "an item has id, category, messages and what its answer is judged by"
        read = read_json_lines(path, read_beside(path, _item_from), "evaluation set", has)
        return cls(name or Path(path).stem, list(read))

    def to_jsonl(self, path: str | os.PathLike[str]) -> Path:
        """Write one item per line; the file appears whole or not at all."""
        records = written_beside(path, self.items, mode="json", exclude_defaults=True)
        write_json_lines(path, records, private=False)
        return Path(path)


def _item_from(record: dict[str, Any]) -> EvaluationItem:
    # 0.1 called the category of an item its variant.
    return EvaluationItem(**{"category" if k == "variant" else k: v for k, v in record.items()})


def check_judged(questions: EvaluationSet, capability: EvaluationSet | None = None) -> None:
    """Make sure that shares over the categories of sets that are run together mean something.

    Raises:
        InvalidInputError: A category is in both sets, so that its prompts would be counted as one,
            or only some of its items can be judged by value.
    """
    shared = set(questions.categories) & set(capability.categories if capability else ())
    if shared:
        raise InvalidInputError(
            f"category {sorted(shared)[0]!r} is in both {questions.name!r} and the capability set; "
            "keep each category in one of them"
        )
    for items in (questions, *([capability] if capability else [])):
        for category in items.categories:
            if len({item.has_verdict for item in items.category(category)}) > 1:
                raise InvalidInputError(
                    f"category {category!r} of {items.name!r} mixes items with and without accept "
                    "or reject phrases; give them all some, or put them into two categories"
                )


def _words(answer: str) -> str:
    """An answer without the marks at its ends, which another answer may set differently."""
    return answer.strip(" .!?\n\"'") or answer


def _plain(item: EvaluationItem) -> dict[str, Any]:
    record = item.model_dump(mode="json", exclude_defaults=True, exclude={"messages"})
    # Under the name that 0.1 gave the category, so that its digests still tell the same sets.
    record["variant"] = record.pop("category")
    return {**record, "messages": by_name(item.messages)}
