"""Held out means held out: prompts that the build or the calibration saw prove nothing.

Nor does a prompt that repeats another one prove anything of its own.

Prompts are compared as the model sees them (rendered by its chat template, whitespace folded), so
neither another order, nor other ids, nor other line breaks, nor a part of a set gets past.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Arm, Subject
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.pairs.pair import Pairs
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.lora import Lora
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.seen import hashes_of
from steerable_llm.vector.vector import SteeringVector


@dataclass(frozen=True)
class HeldOut:
    """A set of prompts that is to prove something.

    Attributes:
        name: Of the set.
        digest: SHA-256 of its items.
        ids: Of its items, in their order.
        hashes: Of its prompts, in the same order.
        template: Hash of the chat template that rendered them; "" where it is not known.
        parts: Digest and ids of each category, where there are several: the target alone is what a
            calibration of 0.1 wrote down.
    """

    name: str
    digest: str
    ids: tuple[str, ...]
    hashes: tuple[str, ...]
    template: str = ""
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        """Refuse a record that was cut short.

        Raises:
            ValueError: Not one hash per id.
        """
        if len(self.ids) != len(self.hashes):
            raise ValueError(
                f"{self.name!r} has {len(self.ids)} prompts and {len(self.hashes)} hashes of them"
            )

    @classmethod
    def of(cls, llm: HookedModel, prompts: EvaluationSet) -> HeldOut:
        """Hash a set's prompts as a model sees them.

        Raises:
            InvalidInputError: Prompts of a category repeat.
        """
        names = prompts.categories
        parts = [prompts.category(name) for name in names] if len(names) > 1 else []
        found = cls(
            prompts.name,
            prompts.digest,
            tuple(item.id for item in prompts),
            hashes_of(llm, prompts),
            llm.fingerprint.template_hash,
            tuple((part.digest, tuple(item.id for item in part)) for part in parts),
        )
        if found.repeats:
            raise InvalidInputError(f"{found.repeats}: leave one of each in the set")
        return found

    @property
    def repeats(self) -> str:
        """How many prompts repeat another one of their category, in words; "" where none does.

        Another category may ask the same: it is counted, and judged, by itself.
        """
        hashes = dict(zip(self.ids, self.hashes, strict=True))
        for ids in [part for _, part in self.parts] or [self.ids]:
            times = Counter(hashes[name] for name in ids)
            if extra := len(ids) - len(times):
                often = next(known for known, n in times.items() if n > 1)
                first, second, *_ = (name for name in ids if hashes[name] == often)
                return (
                    f"{extra} of the {len(self.ids)} prompts of {self.name!r} only repeat others "
                    f"(first {second!r} that of {first!r}), and what is asked again proves no more"
                )
        return ""


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


def past_of(subject: Subject) -> tuple[Saw, ...]:
    """Return what was seen by all that an arm is made of.

    A vector and a LoRA have seen the prompts of their build and of their calibration; an
    instruction and a decoding method none.
    """
    if isinstance(subject, Arm):
        made: list[object] = [term.vector for term in subject.steering.terms]
        made += [] if subject.lora is None else [subject.lora]
    else:
        made = [] if isinstance(subject, str | Contrast) else [subject]
    return tuple(saw for each in made for saw in _past_of(each))


def _past_of(made: object) -> tuple[Saw, ...]:
    if not isinstance(made, SteeringVector | Lora):  # bare directions
        return (Saw(f"the making of {getattr(made, 'name', made)!r}", None),)
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
    calibration = made.calibration if isinstance(made, SteeringVector) else None
    for used in calibration.used if calibration else ():
        what = f"the calibration of {name!r} on {used.name!r}"
        digests = (used.digest, used.part_of) if used.part_of else (used.digest,)
        hashes = None if used.seen is None else frozenset(used.seen)
        found.append(Saw(what, hashes, digests, template))
    return tuple(found)


def looked_at(llm: HookedModel, what: str, prompts: EvaluationSet | Pairs) -> Saw:
    """Return prompts as something that was looked at, for arms that keep no record themselves."""
    return Saw(
        what, frozenset(hashes_of(llm, prompts)), (prompts.digest,), llm.fingerprint.template_hash
    )


def apart(target: HeldOut, capability: HeldOut) -> None:
    """Make sure that what must not be lost is measured on other prompts than what is won.

    Raises:
        InvalidInputError: The sets share a prompt.
    """
    both = set(target.hashes)
    hashes = zip(capability.ids, capability.hashes, strict=True)
    if shared := [name for name, known in hashes if known in both]:
        raise InvalidInputError(
            f"{len(shared)} of the {len(capability.ids)} prompts of {capability.name!r} are among "
            f"those of {target.name!r} (first {shared[0]!r}), and a prompt cannot be target and "
            "capability: keep each in one of the sets"
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
    unproven = []
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
                why = "kept no record of its prompts"
            elif past.template and group.template and past.template != group.template:
                why = "saw its prompts in another chat template"
            else:
                continue
            unproven.append(
                f"{past.what} {why}: that those of {group.name!r} are held out is not proven"
            )
    return tuple(dict.fromkeys(unproven))


def _shared(group: HeldOut, past: Saw) -> Sequence[str]:
    """The ids of the items that were looked at; of whole sets and categories without hashes."""
    if past.hashes is not None:
        return [i for i, h in zip(group.ids, group.hashes, strict=True) if h in past.hashes]
    # Files of 0.1 have the first twelve digits.
    for digest, ids in ((group.digest, group.ids), *group.parts):
        if any(known and digest.startswith(known[:12]) for known in past.digests):
            return ids
    return ()
