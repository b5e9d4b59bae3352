"""How strongly a vector steers, and what that was chosen by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from steerable_llm.reports.numbers import percent, signed_points
from steerable_llm.vector.steering import Scope, Unit


@dataclass(frozen=True)
class DataUsed:
    """A set of prompts that a calibration looked at.

    Attributes:
        name: Of the set.
        digest: SHA-256 of its items; files of 0.1 have the first twelve digits.
        prompts: How many there were; None where that was not written down.
        part_of: Digest of the whole set, where this is the part that has the target.
        seen: Hashes of its prompts (`seen.hashes_of`), sorted; None where nobody wrote them down.
    """

    name: str
    digest: str
    prompts: int | None = None
    part_of: str | None = None
    seen: tuple[str, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Choice:
    """What a calibration was chosen by.

    Attributes:
        dev: The prompts whose success decided.
        before: Mean success on them without steering.
        after: With it.
        settings: How many settings were tried.
        capability: The prompts that the budget holds for; None where capability was not measured.
        lost: Share of each capability category that was lost, by name; negative is gained.
        budget: The largest such share that was allowed.
        kl: How far the strength was to move the answers, in nats per token; None where it was
            given.
        target: The category of dev that was to be changed; None where all of dev was, or nobody
            wrote it down.
    """

    dev: DataUsed
    before: float
    after: float
    settings: int
    capability: DataUsed | None = None
    lost: Mapping[str, float] = field(default_factory=dict)
    budget: float | None = None
    kl: float | None = None
    target: str | None = None

    @property
    def sentence(self) -> str:
        """Everything in one sentence."""
        kept = "; capability was not measured"
        if self.capability is not None:
            losses = ", ".join(f"{name} {signed_points(loss)}" for name, loss in self.lost.items())
            kept = (
                f"; points lost: {losses} (budget {100 * (self.budget or 0):g}, "
                f"{self.capability.name} sha256 {self.capability.digest[:12]})"
            )
        moved = "" if self.kl is None else f"; moves the answers by {self.kl:g} nats per token"
        part = f" of those of sha256 {self.dev.part_of[:12]}" if self.dev.part_of else ""
        return (
            f"best of {self.settings} settings on {self.dev.name} (sha256 {self.dev.digest[:12]}, "
            f"{self.dev.prompts} prompts{part}): success {percent(self.before)} to "
            f"{percent(self.after)}{kept}{moved}"
        )

    @classmethod
    def from_sentence(cls, text: str) -> Self | None:
        """Take the facts out of the sentence that 0.1 kept in their place; None for another."""
        found = _SENTENCE.search(text)
        if found is None:
            return None
        lost = {
            name: float(points) / 100
            for name, _, points in (
                entry.rpartition(" ") for entry in (found["lost"] or "").split(", ") if entry
            )
        }
        return cls(
            dev=DataUsed(found["dev"], found["digest"], int(found["prompts"]), found["part_of"]),
            before=float(found["before"]) / 100,
            after=float(found["after"]) / 100,
            settings=int(found["settings"]),
            capability=DataUsed(found["capability"], found["kept"]) if found["kept"] else None,
            lost=lost,
            budget=float(found["budget"]) / 100 if found["budget"] else None,
        )


_SENTENCE = re.compile(
    r"best of (?P<settings>\d+) settings on (?P<dev>.+?) \(sha256 (?P<digest>[0-9a-f]{12}), "
    r"(?P<prompts>\d+) prompts(?: of those of sha256 (?P<part_of>[0-9a-f]{12}))?\): "
    r"success (?P<before>[\d.]+) % to (?P<after>[\d.]+) %"
    r"(?:; points lost: (?P<lost>.*) \(budget (?P<budget>[\d.e+-]+), "
    r"(?P<capability>.+) sha256 (?P<kept>[0-9a-f]{12})\))?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Calibration:
    """How strongly to steer.

    Attributes:
        strength: Signed; what it counts is the `unit`.
        layers: 0-based blocks to steer; None means every block the vector has.
        scope: Which positions are steered.
        unit: What the strength counts (`steering.Unit`).
        renormalise: Keep each state's norm (eq. 8).
        choice: What it was chosen by on dev data; None where dev data played no part. It stays
            when the strength is then changed by hand: those prompts have been looked at.
        remark: What whoever set or changed it by hand has to say. Nothing reads it.
        earlier: What calibrations before this one looked at: their choice is gone, and still those
            prompts have been looked at.
    """

    strength: float
    layers: tuple[int, ...] | None = None
    scope: Scope = "generated"
    unit: Unit = "total"
    renormalise: bool = True
    choice: Choice | None = None
    remark: str = ""
    earlier: tuple[DataUsed, ...] = ()

    @property
    def used(self) -> tuple[DataUsed, ...]:
        """Every set of prompts that this calibration and those before it looked at."""
        if self.choice is None:
            return self.earlier
        kept = () if self.choice.capability is None else (self.choice.capability,)
        return tuple(dict.fromkeys((self.choice.dev, *kept, *self.earlier)))

    @property
    def sign(self) -> str:
        """What the strength's sign means."""
        way = "the vector as built" if self.strength > 0 else "against the vector as built"
        return f"steers {'+' if self.strength > 0 else '-'} ({way})"

    @property
    def note(self) -> str:
        """What the sign means and how it was chosen, one sentence for people."""
        if self.choice is None:
            return self.remark
        if self.remark:
            return f"{self.remark}; before that {self.choice.sentence}"
        return f"{self.sign}; {self.choice.sentence}"

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Calibration:
        """Read what `record` made, or what a vector file of 0.1 says.

        Raises:
            ValueError: A fact has another type than it should, or there is no such fact.
        """
        clean = {key: value for key, value in record.items() if key != "note"}
        if unknown := clean.keys() - {part.name for part in fields(cls)}:
            raise ValueError(f"a calibration has no {sorted(unknown)[0]!r}")
        note = record.get("note", "")
        if note and not {"choice", "remark"} & record.keys():
            choice = Choice.from_sentence(note)
            clean |= {"remark": note} if choice is None else {"choice": choice}
        # Which unit a file means that names none was settled before there was another default.
        try:
            return _CALIBRATION.validate_python({"unit": "relative", **clean})
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, ("calibration", *problem["loc"])))
            raise ValueError(f"{place}: {problem['msg']}") from error

    def record(self) -> dict[str, Any]:
        """Return plain JSON values, as files keep them, with `note` for people."""
        facts: dict[str, Any] = _CALIBRATION.dump_python(self, mode="json")
        for name in ("choice", "remark", "earlier"):
            if not facts[name]:
                del facts[name]
        return {**facts, "note": self.note}

    def shown(self) -> dict[str, Any]:
        """Return the record for people: without the hashes of prompts."""

        def bare(used: DataUsed) -> DataUsed:
            return replace(used, seen=None)

        choice = self.choice
        if choice is not None:
            kept = None if choice.capability is None else bare(choice.capability)
            choice = replace(choice, dev=bare(choice.dev), capability=kept)
        return replace(self, choice=choice, earlier=tuple(map(bare, self.earlier))).record()


_CALIBRATION = TypeAdapter(Calibration)
