"""A review of pairs by a person: every decision is kept at once, and can be undone.

Decisions go to a journal, one line each, written through to the disk before the next pair is shown.
A review that was killed goes on where it was, and the file of approved pairs always holds what was
approved so far. A decision belongs to the texts that were seen: if a pair has changed since, it is
shown again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel

from steerable_llm.chat.message import read_beside, written_beside
from steerable_llm.errors import PairError
from steerable_llm.files import json_line, read_json_lines
from steerable_llm.pairs.pair import Pairs, PreferencePair, pair_from
from steerable_llm.pairs.proposals import ProposedPair

#: Pairs that a vector can be built from, as a rule.
ENOUGH = 50
Action = Literal["approve", "reject", "skip", "undo"]


@dataclass(frozen=True)
class ReviewItem:
    """A bad answer and the good ones to choose from.

    Attributes:
        options: The pair with each of the good answers, the preferred one first.
        scores: What a judge said of each of them; None for what no judge saw.
    """

    options: tuple[PreferencePair, ...]
    scores: tuple[float | None, ...] = (None,)

    @property
    def id(self) -> str:
        """The id of the pair, whichever answer is chosen."""
        return self.options[0].id

    @property
    def key(self) -> str:
        """Hash of all texts that a person sees."""
        pair = self.options[0]
        texts = [pair.id, pair.bad, *(message.key for message in pair.messages)]
        content = json.dumps([*texts, *(option.good for option in self.options)])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def pair(self, option: int = 0, edited: str | None = None) -> PreferencePair:
        """Return the pair with one of the good answers, or with what a person made of it.

        Raises:
            PairError: The edited answer is empty, or the same as the bad one.
        """
        chosen = self.options[option]
        if edited is None:
            return chosen
        source = f"{chosen.source}/edited"
        told = {**dict(chosen), "good": edited, "source": source, "edit": None}
        return PreferencePair(**told)


class Decision(BaseModel, frozen=True, extra="forbid"):
    """One line of the journal.

    Attributes:
        key: Of the item.
        id: Of the pair, for people who read the journal.
        action: What was decided; "undo" takes the item's last decision back.
        pair: The approved pair.
        reviewer: Who decided.
        time: When.
    """

    key: str
    id: str
    action: Action
    pair: dict[str, Any] | None = None
    reviewer: str | None = None
    time: AwareDatetime


class Review:
    """The state of a review, and its files.

    Attributes:
        items: What is to be reviewed, in order.
        out: The file of approved pairs.
        journal: The file of decisions, beside it.
        left_behind: Pairs that were approved and are not among the items any more, as where a log
            was paired anew: the file of approved pairs is without them, the journal is not.
    """

    def __init__(
        self, items: Sequence[ReviewItem], out: str | os.PathLike[str], reviewer: str | None = None
    ) -> None:
        """Begin a review, or go on with it where its journal ends.

        Raises:
            PairError: There is nothing to review.
            InvalidInputError: The journal is not one.
        """
        self.items = tuple({item.key: item for item in items}.values())
        if not self.items:
            raise PairError("there are no pairs to review: make some with `steerable pairs`")
        self.out = Path(out)
        self.journal = self.out.with_name(self.out.stem + ".decisions.jsonl")
        self.reviewer = reviewer
        self._by_key = {item.key: item for item in self.items}
        self._history: list[Decision] = []
        self._focus: str | None = None
        self._now: list[str] = []  # the keys of what was decided here, in order
        self.left_behind = 0
        self._mend()
        self._replay()
        if self._history:
            self.approved.to_jsonl(self.out)

    @property
    def current(self) -> ReviewItem | None:
        """The item to decide on; None when only those are left that were skipped just now."""
        if self._focus is not None:
            return self._by_key[self._focus]
        latest = self._latest()
        for item in self.items:
            if item.key not in latest:
                return item
        for decision in self._history:
            skipped = latest[decision.key].action == "skip"
            if skipped and decision.key not in self._now:
                return self._by_key[decision.key]
        return None

    @property
    def counts(self) -> dict[str, int]:
        """How many items are approved, rejected, skipped, and left to look at."""
        found = Counter(decision.action for decision in self._latest().values())
        return {
            "approved": found["approve"],
            "rejected": found["reject"],
            "skipped": found["skip"],
            "left": len(self.items) - found.total(),
        }

    @property
    def approved(self) -> Pairs:
        """The approved pairs, in the order of the items."""
        latest = self._latest()
        decisions = [latest[item.key] for item in self.items if item.key in latest]
        read = read_beside(self.journal, pair_from)
        return Pairs(
            read(d.pair) for d in decisions if d.action == "approve" and d.pair is not None
        )

    def approve(self, item: ReviewItem, option: int = 0, edited: str | None = None) -> None:
        """Approve a pair, perhaps with a good answer that was edited.

        Raises:
            PairError: The good answer is empty, or the same as the bad one; nothing is decided.
        """
        self._decide(item, "approve", item.pair(option, edited))

    def reject(self, item: ReviewItem) -> None:
        """Leave a pair out."""
        self._decide(item, "reject")

    def skip(self, item: ReviewItem) -> None:
        """Leave a pair for the next time."""
        self._decide(item, "skip")

    def undo(self) -> ReviewItem | None:
        """Take the last decision back, also one of an earlier time, and show its pair again.

        What somebody else decides meanwhile is not taken back.

        Returns:
            The item whose decision was taken back; None when there is none.
        """
        if not self._history:
            return None
        item = self._by_key[self._now.pop() if self._now else self._history[-1].key]
        self._write(item, "undo")
        self._replay()
        self._focus = item.key
        self.approved.to_jsonl(self.out)
        return item

    def _decide(self, item: ReviewItem, action: Action, pair: PreferencePair | None = None) -> None:
        self._write(item, action, pair)
        self._replay()
        self._now.append(item.key)
        self._focus = None
        if action != "skip" or self.out.exists():
            self.approved.to_jsonl(self.out)

    def _write(self, item: ReviewItem, action: Action, pair: PreferencePair | None = None) -> None:
        """Put a decision into the journal, and through to the disk."""
        decision = Decision(
            key=item.key,
            id=item.id,
            action=action,
            pair=None if pair is None else next(written_beside(self.journal, [pair])),
            reviewer=self.reviewer,
            time=datetime.now(UTC),
        )
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        with open(self.journal, "ab", opener=_private) as file:
            file.write(json_line(decision.model_dump(mode="json", exclude_none=True)).encode())
            file.flush()
            os.fsync(file.fileno())

    def _latest(self) -> dict[str, Decision]:
        return {decision.key: decision for decision in self._history}

    def _mend(self) -> None:
        if not self.journal.is_file():
            return
        content = self.journal.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            # Killed in the middle of a line, which was not decided then.
            with self.journal.open("r+b") as file:
                file.truncate(len(whole))

    def _replay(self) -> None:
        """Read all decisions, since another reviewer may add some meanwhile."""
        if not self.journal.is_file():
            return
        history: list[Decision] = []
        has = "this is no journal of a review, so move the file away to begin anew"
        for decision in read_json_lines(self.journal, _decision_from, "journal", has):
            if decision.action != "undo":
                history.append(decision)
                continue
            for place in reversed(range(len(history))):
                if history[place].key == decision.key:
                    del history[place]
                    break
        self._history = [decision for decision in history if decision.key in self._by_key]
        others = {one.key: one.action for one in history if one.key not in self._by_key}
        self.left_behind = list(others.values()).count("approve")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _decision_from(record: dict[str, Any]) -> Decision:
    decision = Decision.model_validate(record)
    if decision.action == "approve":
        pair_from(decision.pair or {})
    return decision


def read_items(paths: Iterable[str | os.PathLike[str]]) -> list[ReviewItem]:
    """Read what is to be reviewed from files of pairs and files of proposals.

    Raises:
        PairError: A file is missing, or a line is neither a pair nor a proposal; names the line.
    """
    items: list[ReviewItem] = []
    for path in paths:
        has = "a line is a pair, or a failure with proposals"
        # The first line tells what kind of file it is.
        if "proposals" in next(read_json_lines(path, dict, "file of pairs", has, PairError), ()):
            has = "make the file with `steerable pairs --propose`"
            parse = read_beside(path, ProposedPair.model_validate)
            found = read_json_lines(path, parse, "file of proposals", has, PairError)
            items += map(_proposed, found)
        else:
            items += map(_paired, Pairs.from_jsonl(path))
    return items


def _paired(pair: PreferencePair) -> ReviewItem:
    """Offer beside an edit what a person wrote."""
    options = tuple(dict.fromkeys((pair, pair.as_written)))
    return ReviewItem(options, (None,) * len(options))


def _proposed(found: ProposedPair) -> ReviewItem:
    return ReviewItem(
        tuple(found.pair(place) for place in range(len(found.proposals))),
        tuple(option.score for option in found.proposals),
    )
