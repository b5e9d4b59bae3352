"""Preference pairs: one prompt, the answer that was wanted, and the answer that was not."""

import hashlib
import json
import os
import random
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from pydantic import (
    BaseModel,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from steerable_llm.chat.images import ImagePart, ImageSource, image_of
from steerable_llm.chat.message import (
    Message,
    MessagesLike,
    Text,
    as_messages,
    by_name,
    read_beside,
    written_beside,
)
from steerable_llm.errors import InvalidInputError, PairError, first_problem
from steerable_llm.files import read_json_lines, write_json_lines


def connected(keys: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """Return the groups of items that share a key, each as the positions of its items.

    Args:
        keys: Per item what it shares with others, such as the documents it quotes.
    """
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    seen: dict[Hashable, int] = {}
    for i, shared in enumerate(keys):
        for key in shared:
            parent[root(i)] = root(seen.setdefault(key, i))
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(keys)):
        groups[root(i)].append(i)
    return list(groups.values())


#: What the source of a pair ends with whose good answer is the bad one with another value.
SMALLEST_EDIT = "smallest edit"


class Edit(BaseModel, frozen=True, extra="forbid"):
    """How the answers of a pair were made out of what was logged, by the smallest edit.

    Attributes:
        wrong: What stood in the bad answer.
        value: What stands there in the good one.
        good: The good answer as it was written; None if the value came from the documents.
        bad: The bad answer as it was logged, if it was cut.
    """

    wrong: str
    value: str
    good: Text | None = None
    bad: Text | None = None


class PreferencePair(BaseModel, frozen=True, extra="forbid"):
    """A prompt with a preferred and a dispreferred answer (paper section 3.1, eq. 1).

    Attributes:
        messages: The prompt; a plain string given here becomes one user message.
        good: The preferred answer.
        bad: The dispreferred answer; None when the log has none (objective "likelihood").
        source: Where the pair comes from, for people.
        document_ids: The documents the prompt quotes; splits never let one cross.
        id: A name for messages and reports; when empty, one is made from the content.
        edit: How both answers were made out of what was logged; None if they are as written.
    """

    messages: tuple[Message, ...]
    good: Text
    bad: Text | None = None
    source: str = ""
    document_ids: tuple[str, ...] = ()
    id: str = ""
    edit: Edit | None = None

    def __init__(
        self,
        messages: MessagesLike,
        good: str,
        bad: str | None = None,
        *,
        source: str = "",
        document_ids: Iterable[str] = (),
        images: Iterable[ImageSource] = (),
        id: str = "",
        edit: Edit | None = None,
    ) -> None:
        """Check and store a pair.

        Args:
            messages: The prompt.
            good: The preferred answer.
            bad: The dispreferred answer.
            source: Where the pair comes from.
            document_ids: The documents the prompt quotes.
            images: Images that are put in front of the text of the last user message.
            id: Names the pair.
            edit: How the answers were made out of what was logged.

        Raises:
            PairError: An answer is empty, both are the same, or a field has the wrong type.
        """
        try:
            prompt = _shown(as_messages(messages), images)
        except InvalidInputError as error:
            raise PairError(str(error)) from error
        for name, answer in (("good", good), ("bad", bad)):
            if isinstance(answer, str) and not answer.strip():
                raise PairError(
                    f"the {name} answer of the pair {id or prompt[-1].content[:40]!r} is empty: "
                    "give a text" + (", or bad=None when there is none" if name == "bad" else "")
                )
        if isinstance(bad, str) and isinstance(good, str) and good.strip() == bad.strip():
            raise PairError(
                f"both answers of the pair {id or prompt[-1].content[:40]!r} are the same "
                f"({good.strip()[:60]!r}): a pair needs two different answers, or bad=None"
            )
        if isinstance(document_ids, str) or isinstance(images, str):
            raise PairError("document_ids and images are lists, not one text")
        fields: dict[str, Any] = {
            "messages": prompt,
            "good": good,
            "bad": bad,
            "source": source,
            "document_ids": tuple(document_ids),
        }
        # Pairs once had a field for images. It stays here so that they keep their ids.
        told = {**fields, "messages": by_name(prompt), "images": ()}
        content = json.dumps(told, default=str)
        name = id or hashlib.sha256(content.encode()).hexdigest()[:12]
        try:
            super().__init__(id=name, edit=edit, **fields)
        except ValidationError as error:
            raise PairError(f"the pair is not valid: {first_problem(error)}") from error

    @model_serializer(mode="wrap")
    def _told(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what most pairs do not have."""
        record: dict[str, Any] = handler(self)
        if record.get("edit") is None:
            record.pop("edit", None)
        return record

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The messages as plain dicts, as chat templates take them."""
        return [{**message} for message in self.messages]

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images of the prompt, in their order."""
        return tuple(image for message in self.messages for image in message.images)

    @property
    def as_written(self) -> "PreferencePair":
        """The pair before its edit; itself without one, or if nobody wrote a good answer."""
        if self.edit is None or self.edit.good is None:
            return self
        return PreferencePair(
            self.messages,
            self.edit.good,
            self.edit.bad or self.bad,
            source=self.source.removesuffix(f"/{SMALLEST_EDIT}"),
            document_ids=self.document_ids,
            id=self.id,
        )

    @property
    def proposed(self) -> bool:
        """Whether the good answer was proposed by a model; `source` says how."""
        return "/proposal/" in self.source


class Pairs(Sequence[PreferencePair]):
    """An immutable list of pairs with splitting, storage and a digest."""

    def __init__(self, pairs: Iterable[PreferencePair] = ()) -> None:
        self._pairs = tuple(pairs)
        for position, pair in enumerate(self._pairs):
            if not isinstance(pair, PreferencePair):
                raise PairError(
                    f"item {position} is a {type(pair).__name__}, not a PreferencePair: "
                    "build it with PreferencePair(messages, good, bad)"
                )

    @overload
    def __getitem__(self, index: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, index: slice) -> "Pairs": ...
    def __getitem__(self, index: int | slice) -> "PreferencePair | Pairs":
        return Pairs(self._pairs[index]) if isinstance(index, slice) else self._pairs[index]

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[PreferencePair]:
        return iter(self._pairs)

    def __eq__(self, other: object) -> bool:
        return self._pairs == other._pairs if isinstance(other, Pairs) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __add__(self, other: "Pairs") -> "Pairs":
        return Pairs((*self, *other))

    def __repr__(self) -> str:
        return f"Pairs({len(self)} pairs, {self.digest[:12]})"

    @property
    def digest(self) -> str:
        """SHA-256 of the pairs in their order, hexadecimal."""
        hasher = hashlib.sha256()
        for pair in self._pairs:
            # As for the id, the field that pairs once had stays.
            told = {**pair.model_dump(exclude={"messages", "edit"}), "images": ()}
            told["messages"] = by_name(pair.messages)
            hasher.update(json.dumps(told, ensure_ascii=False, sort_keys=True).encode())
        return hasher.hexdigest()

    def sample(self, n: int, seed: int = 0) -> "Pairs":
        """Return n pairs drawn without replacement, in their old order.

        Raises:
            PairError: n is negative or more than there are.
        """
        if not 0 <= n <= len(self):
            raise PairError(f"cannot draw {n} pairs from {len(self)}: give 0 to {len(self)}")
        chosen = sorted(random.Random(seed).sample(range(len(self)), n))
        return Pairs(self._pairs[i] for i in chosen)

    def split(
        self,
        by: Literal["document", "prompt"] = "document",
        seed: int = 0,
        fractions: tuple[float, float, float] = (0.5, 0.25, 0.25),
    ) -> tuple["Pairs", "Pairs", "Pairs"]:
        """Split into build, dev and test so that no document (or prompt) is in two of them.

        Pairs that share a document, directly or through other pairs, form one group and stay
        together; so do pairs with the same prompt. Sizes follow the fractions as far as the
        groups allow.

        Args:
            by: "document" keeps documents apart; "prompt" only equal prompts.
            seed: Decides which group goes where.
            fractions: Shares of build, dev and test; they sum to 1.

        Raises:
            PairError: Bad fractions, or fewer groups than parts that must not be empty.
        """
        if by not in ("document", "prompt"):
            raise PairError(f"cannot split by {by!r}: choose 'document' or 'prompt'")
        if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
            raise PairError(
                f"fractions {fractions} are not three shares that sum to 1, "
                "for example (0.5, 0.25, 0.25)"
            )
        groups = self._groups(by)
        wanted = [part for part in range(3) if fractions[part] > 0]
        if len(groups) < len(wanted):
            raise PairError(
                f"the {len(self)} pairs form only {len(groups)} separate group(s) by {by}, "
                f"too few for {len(wanted)} parts: add pairs"
                + (" with other documents, or split by='prompt'" if by == "document" else "")
            )
        random.Random(seed).shuffle(groups)
        groups.sort(key=len, reverse=True)  # stable: large groups first, ties stay shuffled
        parts: list[list[int]] = [[], [], []]
        for done, group in enumerate(groups):
            empty = [part for part in wanted if not parts[part]]
            # The last groups are kept for parts that would otherwise stay empty.
            open_parts = empty if len(groups) - done <= len(empty) else wanted
            deficit = {p: fractions[p] * len(self) - len(parts[p]) for p in open_parts}
            parts[max(open_parts, key=lambda p: deficit[p])].extend(group)
        build, dev, test = (Pairs(self._pairs[i] for i in sorted(part)) for part in parts)
        return build, dev, test

    def _groups(self, by: str) -> list[list[int]]:
        """Return the connected components of pairs, as lists of positions."""
        return connected(
            [
                [pair.messages]
                + ([("document", name) for name in pair.document_ids] if by == "document" else [])
                for pair in self._pairs
            ]
        )

    def to_jsonl(self, path: str | os.PathLike[str]) -> Path:
        """Write one pair per line, atomically, and return the path.

        Images that the pairs hold as bytes are put into a folder `images` beside the file.
        """
        write_json_lines(path, written_beside(path, self))
        return Path(path)

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str]) -> "Pairs":
        """Read pairs, one JSON object per line with `messages`, `good` and perhaps `bad`.

        Raises:
            PairError: The file is missing, or a line is not a valid pair; names the line.
        """
        has = f"a pair has {', '.join(PreferencePair.model_fields)}"
        return cls(read_json_lines(path, read_beside(path, pair_from), "pair file", has, PairError))


def pair_from(record: dict[str, Any]) -> PreferencePair:
    """Return a pair out of its fields, as a file has them.

    Raises:
        PairError: A field is missing, unknown or not valid.
    """
    if unknown := record.keys() - PreferencePair.model_fields.keys() - {"images"}:
        raise PairError(f"there are unknown fields {sorted(unknown)}")
    if missing := {"messages", "good"} - record.keys():
        raise PairError(f"there is no {' and no '.join(sorted(missing))}")
    return PreferencePair(**record)


def _shown(prompt: tuple[Message, ...], images: Iterable[ImageSource]) -> tuple[Message, ...]:
    """Put images in front of the last user message's text."""
    shown = [image_of(image) for image in images]
    if not shown:
        return prompt
    asked = [place for place, message in enumerate(prompt) if message.role == "user"]
    if not asked:
        raise InvalidInputError("there are images and no message of the user to hold them")
    message = prompt[asked[-1]]
    more = message.model_copy(update={"parts": (*shown, *message.parts)})
    return (*prompt[: asked[-1]], more, *prompt[asked[-1] + 1 :])
