"""How a vector was made: typed facts, so that whoever needs one asks for it by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from steerable_llm.reports.numbers import percent

Badge = Literal["strong", "fair", "weak"]
#: Badge to the least cosine and the least share of agreeing pairs; below all of them it is "weak".
#: The share also has to be more than chance explains: two standard errors above one half. The
#: numbers are a convention; docs/evidence.md has what the bundled model's pairs reach, as they are
#: and with half of their answers swapped.
THRESHOLDS: Mapping[Badge, tuple[float, float]] = {"strong": (0.3, 0.8), "fair": (0.05, 0.65)}


class LayerAgreement(BaseModel, frozen=True, extra="forbid"):
    """Agreement in one block.

    Attributes:
        cosine: Mean cosine of a pair's difference with the mean of the others.
        share: Share of pairs whose cosine is positive.
    """

    cosine: float
    share: float


class Agreement(BaseModel):
    """How far the pairs of a vector agree.

    Attributes:
        pairs: How many differences were compared.
        cosine: Mean over pairs and blocks of the cosine with the mean of the others.
        share: Share of pairs whose cosine, averaged over the blocks, is positive.
        layers: The same per block.
    """

    model_config = ConfigDict(frozen=True)  # files say the badge, too, which is made anew

    pairs: int
    cosine: float
    share: float
    layers: dict[int, LayerAgreement]

    @property
    def badge(self) -> Badge:
        """`strong`, `fair` or `weak`, by `THRESHOLDS`."""
        chance = 0.5 + 1 / math.sqrt(self.pairs)  # a fair coin's standard error is 0.5 / root n
        for badge, (cosine, share) in THRESHOLDS.items():
            if self.cosine >= cosine and self.share >= max(share, chance):
                return badge
        return "weak"

    @property
    def line(self) -> str:
        """The badge in one line, with what it is worth."""
        return (
            f"pre-flight {self.badge}: {percent(self.share, 0)} of {self.pairs} pairs agree with "
            f"the others, mean cosine {self.cosine:+.2f} (predicts, proves nothing)"
        )


@dataclass(frozen=True)
class Deltas:
    """How many differences of hidden states the directions were made of.

    Attributes:
        positive: Towards what is wanted.
        negative: Away from it.
    """

    positive: int
    negative: int = 0


@dataclass(frozen=True)
class Completeness:
    """How far attribution scores miss the preference that they should add up to, as shares of it.

    Attributes:
        median: Over the pairs; None where it is infinite.
        largest: Of all pairs; None where it is infinite.
    """

    median: float | None
    largest: float | None


@dataclass(frozen=True)
class Imported:
    """Where a vector comes from that another tool made.

    Attributes:
        format: Of the file.
        file: Its name.
        sha256: Of its content.
        model_type: The model family that it names; None where it names none.
        method: How it was made, by what it says; None where it does not say.
        facts: Whatever else it says.
        left_out: What could not be taken over, one sentence each.
        unknown: What no file of this format says, one sentence each.
    """

    format: str
    file: str
    sha256: str
    model_type: str | None = None
    method: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Provenance:
    """How a vector was made.

    Attributes:
        method: Name of the method; "imported" for another tool's file, None where nothing is known.
        preset: Name of the settings that were started from.
        config: All settings of the method, plain JSON values.
        pairs: How many pairs it was built from.
        proposed_pairs: How many of them have a good answer that a model proposed.
        data_digest: SHA-256 of the pairs in their order.
        agreement: Whether the pairs agree on a direction; None for methods that cannot say.
        deltas: What the directions were made of.
        completeness_error: Of the attribution scores; None for attributions whose scores are not
            meant to add up.
        mean_preference: Mean of f over the pairs, natural logarithm.
        packed: Whether the model could read both answers behind one prompt.
        library_version: Of this package, when it was built.
        seen: Hashes of the prompts that the build saw (`seen.hashes_of`), sorted; None where
            nobody wrote them down.
        imported: Where another tool's file comes from.
        facts: What else a method has to tell, plain JSON values, for people.
    """

    method: str | None = None
    preset: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    pairs: int | None = None
    proposed_pairs: int | None = None
    data_digest: str | None = None
    agreement: Agreement | None = None
    deltas: Deltas | None = None
    completeness_error: Completeness | None = None
    mean_preference: float | None = None
    packed: bool | None = None
    library_version: str | None = None
    seen: tuple[str, ...] | None = field(default=None, repr=False)
    imported: Imported | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Provenance:
        """Read what `record` made, or what a vector file of 0.1 says.

        Raises:
            ValueError: A fact has another type than it should.
        """
        known = {part.name for part in fields(cls)}
        facts = {key: value for key, value in record.items() if key not in known}
        clean = {key: value for key, value in record.items() if key in known}
        if isinstance(clean.get("deltas"), int):  # as 0.1 wrote it for methods of one sign
            clean["deltas"] = {"positive": clean["deltas"]}
        if "agreement" in clean:
            try:
                clean["agreement"] = Agreement.model_validate(clean["agreement"])
            except ValidationError:  # of a version that kept something else
                del clean["agreement"]
        if facts:
            clean["facts"] = {**clean.get("facts", {}), **facts}
        return _PROVENANCE.validate_python(clean)

    def record(self) -> dict[str, Any]:
        """Return plain JSON values of all that is known, as files keep them.

        Raises:
            ValueError: A setting or a fact is not plain JSON.
        """
        found: dict[str, Any] = _PROVENANCE.dump_python(self, mode="json", exclude_defaults=True)
        if self.agreement is not None:
            found["agreement"]["badge"] = self.agreement.badge
        return found

    def shown(self) -> dict[str, Any]:
        """Return the record for people: with the number of hashes in place of the hashes."""
        if self.seen is None:
            return self.record()
        return {**replace(self, seen=None).record(), "seen": f"{len(self.seen)} prompts"}


_PROVENANCE = TypeAdapter(Provenance)
