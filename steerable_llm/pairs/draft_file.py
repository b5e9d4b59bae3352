"""Drafts on disk, so that a log of any size fits into memory while its failures become pairs."""

from __future__ import annotations

import json
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.pairs.pair import Edit
from steerable_llm.pairs.pairing import Draft

#: Bytes that stay in memory; what goes beyond them is in a file that nobody else can read.
_IN_MEMORY = 32 * 2**20


class _Scratch:
    """A file that is closed once nobody reads it any more."""

    def __init__(self) -> None:
        self.file = tempfile.SpooledTemporaryFile(_IN_MEMORY)
        weakref.finalize(self, self.file.close)


class DraftFile(Sequence[Draft]):
    """Drafts that are written once, and read again one at a time.

    A log of 200,000 failures takes some gigabytes as objects.

    Attributes:
        sources: Where the good answer of each comes from, or why there is none.
        paired: Whether each has a good answer.
        reasons: Why each answer is bad.
    """

    def __init__(self, drafts: Iterable[Draft] = ()) -> None:
        self._scratch = _Scratch()
        file = self._scratch.file
        self._starts = array("Q")
        # What its text does not hold: images name files, whose folders no text of theirs tells.
        self._held: dict[int, Draft] = {}
        self._places: Sequence[int] = ()
        self.sources: list[str] = []
        self.paired = bytearray()
        self.reasons: list[str | None] = []
        self._edited = bytearray()
        known: dict[str | None, Any] = {}
        for place, draft in enumerate(drafts):
            self._starts.append(file.tell())
            self.sources.append(known.setdefault(draft.source, draft.source))
            self.paired.append(draft.good is not None)
            self.reasons.append(known.setdefault(draft.answer.reason, draft.answer.reason))
            self._edited.append(draft.edit is not None)
            if any(message.images for message in draft.answer.messages):
                self._held[place] = draft
            else:
                file.write(_written(draft))
        self._starts.append(file.tell())
        self._places = range(len(self.sources))

    def chosen(self, places: Iterable[int]) -> DraftFile:
        """Return some of the drafts, by their places in this sequence."""
        made = DraftFile.__new__(DraftFile)
        made.__dict__.update(self.__dict__)
        taken = list(places)
        made._places = array("Q", (self._places[place] for place in taken))
        made.sources = [self.sources[place] for place in taken]
        made.paired = bytearray(self.paired[place] for place in taken)
        made.reasons = [self.reasons[place] for place in taken]
        made._edited = bytearray(self._edited[place] for place in taken)
        return made

    @property
    def edited(self) -> int:
        """How many have a good answer that was made by an edit."""
        return sum(self._edited)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Draft: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Draft]: ...

    def __getitem__(self, place: int | slice) -> Draft | Sequence[Draft]:
        """Return one draft, or some."""
        if isinstance(place, slice):
            return self.chosen(range(len(self))[place])
        return self._read(self._places[place])

    def __iter__(self) -> Iterator[Draft]:
        for place in self._places:
            yield self._read(place)

    def _read(self, place: int) -> Draft:
        if place in self._held:
            return self._held[place]
        file = self._scratch.file
        file.seek(self._starts[place])
        return _read_from(file.read(self._starts[place + 1] - self._starts[place]))


def _written(draft: Draft) -> bytes:
    told = {"good": draft.good, "source": draft.source}
    edit = draft.edit.model_dump() if draft.edit else None
    answer = draft.answer.model_dump_json(exclude_defaults=True)
    return json.dumps([told, edit], ensure_ascii=False).encode() + b"\n" + answer.encode()


def _read_from(raw: bytes) -> Draft:
    head, _, answer = raw.partition(b"\n")
    told: dict[str, Any]
    told, edit = json.loads(head)
    made = Edit.model_validate(edit) if edit else None
    return Draft(LoggedAnswer.model_validate_json(answer), told["good"], told["source"], made)
