"""Held out means held out: prompts that the build or the calibration saw prove nothing.

Prompts are compared as the model sees them (rendered by its chat template, whitespace folded), so
neither another order, nor other ids, nor other line breaks, nor a part of a set gets past.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.pairs.pair import Pairs
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.calibration import Calibration, DataUsed
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.seen import hashes_of


@dataclass(frozen=True)
class HeldOut:
    """A set of prompts that is to prove something.

    Attributes:
        name: Of the set.
        digest: SHA-256 of its items.
        ids: Of its items, in their order.
        hashes: Of its prompts, in the same order.
        template: Hash of the chat template that rendered them; "" where it is not known.
    """

    name: str
    digest: str
    ids: tuple[str, ...]
    hashes: tuple[str, ...]
    template: str = ""

    @classmethod
    def of(cls, llm: HookedModel, prompts: EvaluationSet) -> HeldOut:
        """Hash a set's prompts as a model sees them.

        Raises:
            InvalidInputError: A prompt that the model's template refuses.
        """
        return cls(
            prompts.name,
            prompts.digest,
            tuple(item.id for item in prompts),
            hashes_of(llm, prompts),
            llm.fingerprint.template_hash,
        )


@dataclass(frozen=True)
class Saw:
    """Prompts that were looked at, and by what.

    Attributes:
        what: Such as "the build of 'careful'".
        hashes: Of the prompts; None where nobody wrote them down.
        digests: SHA-256 of the sets, or how it begins: all that is known without hashes.
        template: Hash of the chat template that rendered them; "" where it is not known.
    """

    what: str
    hashes: frozenset[str] | None
    digests: tuple[str, ...] = ()
    template: str = ""


class HasPast(Protocol):
    """A vector or a LoRA: named, made for a model, and with a record of how."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def fingerprint(self) -> ModelFingerprint:
        """The model it was made for."""
        ...

    @property
    def provenance(self) -> Provenance:
        """How it was made."""
        ...


def past_of(made: HasPast) -> tuple[Saw, ...]:
    """Return what a vector (or a LoRA) has seen in its build and in its calibration."""
    name, template = made.name, made.fingerprint.template_hash
    seen = made.provenance.seen
    digest = made.provenance.data_digest
    found = [
        Saw(
            f"the build of {name!r}",
            None if seen is None else frozenset(seen),
            (digest,) if digest else (),
            template,
        )
    ]
    calibration: Calibration | None = getattr(made, "calibration", None)
    for used in () if calibration is None else calibration.used:
        found.append(_looked_at(f"the calibration of {name!r} on {used.name!r}", used, template))
    return tuple(found)


def _looked_at(what: str, used: DataUsed, template: str) -> Saw:
    digests = (used.digest, used.part_of) if used.part_of else (used.digest,)
    hashes = None if used.seen is None else frozenset(used.seen)
    return Saw(what, hashes, digests, template)


def looked_at(llm: HookedModel, what: str, prompts: EvaluationSet | Pairs) -> Saw:
    """Return prompts as something that was looked at, for arms that keep no record themselves."""
    return Saw(
        what, frozenset(hashes_of(llm, prompts)), (prompts.digest,), llm.fingerprint.template_hash
    )


def overlap(held_out: Iterable[HeldOut], saw: Iterable[Saw]) -> tuple[str, ...]:
    """Refuse prompts that are not held out.

    Args:
        held_out: The sets that are to prove something, target and capability.
        saw: What was looked at before (`past_of`, `looked_at`).

    Returns:
        What could not be proven, one sentence each: a file of 0.1 has no hashes, and only its
        whole sets can be recognised; a vector for another chat template has other hashes.

    Raises:
        InvalidInputError: A set shares a prompt with what was looked at.
    """
    unproven: dict[str, None] = {}
    seen = tuple(saw)
    for group in held_out:
        for past in seen:
            shared = _shared(group, past)
            if shared:
                raise InvalidInputError(
                    f"{len(shared)} of the {len(group.ids)} prompts of {group.name!r} are among "
                    f"those that {past.what} saw (first {shared[0]!r}), so they are not held out: "
                    "take them out of the set, or give another one"
                )
            if past.hashes is None:
                unproven[
                    f"{past.what} kept no record of its prompts: that those of {group.name!r} are "
                    "held out is not proven"
                ] = None
            elif past.template and group.template and past.template != group.template:
                unproven[
                    f"{past.what} saw its prompts in another chat template: that those of "
                    f"{group.name!r} are held out is not proven"
                ] = None
    return tuple(unproven)


def _shared(group: HeldOut, past: Saw) -> Sequence[str]:
    """The ids of the items that were looked at; all of them where the whole set was."""
    if past.hashes is not None:
        return [i for i, h in zip(group.ids, group.hashes, strict=True) if h in past.hashes]
    # Files of 0.1 have the first twelve digits.
    whole = any(digest and group.digest.startswith(digest[:12]) for digest in past.digests)
    return group.ids if whole else ()
