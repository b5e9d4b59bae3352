"""How a steering travels to vLLM, and which positions of a request each of its terms touches.

Over the wire a steering is the extra argument `steering`: JSON text with a list of terms, or the
name of one vector, which is then applied as it was calibrated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from steerable_llm.errors import InvalidInputError, brief, first_problem
from steerable_llm.vector.steering import Application, Scope, Steering, SteeringTerm, Unit

#: The name of the extra argument (`vllm_xargs` over HTTP, `SamplingParams.extra_args` in Python).
ARGUMENT = "steering"

#: The header by which a server says that it steers.
MARK = "x-steerable"

MOST_TERMS = 8
"""Of one request: bounds the rows that a pass may need."""


class SentTerm(BaseModel):
    """One term as it is sent; what is left out comes from the vector's calibration.

    Attributes:
        digest: Of the term as the sender understands it; the receiver refuses one that it
            understands otherwise, such as one of a vector file of another day.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    vector: str
    strength: float | None = None
    layers: list[int] | None = None
    scope: Scope | None = None
    unit: Unit | None = None
    renormalise: bool | None = None
    digest: str | None = None


_SENT = TypeAdapter(list[SentTerm])


def sent_terms(text: object) -> list[SentTerm]:
    """Read the extra argument.

    Raises:
        InvalidInputError: It is no steering.
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError(
            f"{ARGUMENT} is {brief(text)}: give the name of a vector, or a JSON list such as "
            '[{"vector": "civility", "strength": 0.3}]'
        )
    if not text.lstrip().startswith("["):
        return [SentTerm(vector=text)]
    try:
        terms = _SENT.validate_json(text)
    except ValidationError as error:
        raise InvalidInputError(f"{ARGUMENT} cannot be read ({first_problem(error)})") from error
    if len(terms) > MOST_TERMS:
        raise InvalidInputError(f"{ARGUMENT} has {len(terms)} terms: give at most {MOST_TERMS}")
    return terms


def acts_here(application: Application) -> bool:
    """Tell whether vLLM's layers can do what a vector means: they change block outputs."""
    return application.site == "block" and application.rule in ("add", "weigh")


def check_fits(term: SteeringTerm) -> None:
    """Refuse what vLLM's layers cannot do.

    Raises:
        InvalidInputError: The vector acts inside a block, or by another rule.
    """
    if not acts_here(term.application) or term.tower:
        raise InvalidInputError(
            f"vector {term.vector.name!r} acts on site {term.site!r} by rule {term.rule!r}: vLLM's "
            "layers change block outputs only; take a vector of such a method (GrAInS, CAA, BiPO, "
            "MAT-Steer), or the local engine"
        )


def digest_of(term: SteeringTerm) -> str:
    """Return what tells terms apart that change states differently."""
    layers = term.steered_layers
    scales = [term.vector.scales.get(layer) for layer in layers]
    facts = [  # numbers in one form each, as they are after a journey in JSON
        term.vector.fingerprint_id,
        float(term.strength),
        [int(layer) for layer in layers],
        [None if scale is None else float(scale) for scale in scales],
        term.unit,
        bool(term.renormalise),
        term.reach,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def sent(steering: Steering) -> str:
    """Return a steering as the extra argument.

    Raises:
        InvalidInputError: vLLM's layers cannot do it.
    """
    terms = []
    for term in steering.active_terms:
        check_fits(term)
        terms.append(
            SentTerm(
                vector=term.vector.name,
                strength=float(term.strength),
                layers=[int(layer) for layer in term.steered_layers],
                scope=term.scope,
                unit=term.unit,
                renormalise=bool(term.renormalise),
                digest=digest_of(term),
            ).model_dump()
        )
    return json.dumps(terms)


@dataclass(frozen=True)
class Term:
    """A term that was checked, as vLLM's processes hand it on.

    Attributes:
        vector: Its name.
        strength: In `unit`.
        layers: The blocks.
        unit: What the strength counts.
        renormalise: Whether states keep their length.
        reach: A scope, or how many generated tokens behind the last prompt position.
        digest: See `digest_of`.
    """

    vector: str
    strength: float
    layers: tuple[int, ...]
    unit: Unit
    renormalise: bool
    reach: Scope | int
    digest: str

    @classmethod
    def of(cls, term: SteeringTerm) -> Self:
        """Take down a term of a steering."""
        return cls(
            term.vector.name,
            float(term.strength),
            term.steered_layers,
            term.unit,
            term.renormalise,
            term.reach,
            digest_of(term),
        )

    def span(self, prompt: int) -> tuple[int, float]:
        """Return the first position that is touched after a prompt of so many tokens, and the end.

        The last prompt position counts as the first generated one: its state chooses that token.
        """
        last = prompt - 1
        if isinstance(self.reach, int):
            return last, last + 1 + self.reach
        return {
            "all": (0, float("inf")),
            "prompt": (0, prompt),
            "generated": (last, float("inf")),
            "last_prompt": (last, prompt),
        }[self.reach]


def written(terms: Sequence[Term]) -> str:
    """Return checked terms as text."""
    return json.dumps([asdict(term) for term in terms])


@lru_cache(maxsize=4096)
def _read(text: str) -> tuple[Term, ...]:
    return tuple(Term(**{**each, "layers": tuple(each["layers"])}) for each in json.loads(text))


def checked_terms(extra_args: Mapping[str, Any] | None) -> tuple[Term, ...]:
    """Return the terms of a request that vLLM has let in; none where it is not steered."""
    text = (extra_args or {}).get(CHECKED)
    return () if text is None else _read(text)


#: Where the checked terms of a request stand among its extra arguments.
CHECKED = "steering.checked"


def block_keys(terms: Sequence[Term], prompt: int, start: int, end: int) -> list[tuple[str, str]]:
    """Return what a block of the prefix cache is keyed by beside its tokens.

    The digest of each term that touches its positions, and which it touches: blocks before the
    first steered position are shared with everybody, those behind it with requests alone whose
    states are the same.
    """
    keys = []
    for term in terms:
        first, behind = term.span(prompt)
        first, behind = max(first, start), min(behind, end)
        if first < behind:
            keys.append((ARGUMENT, f"{term.digest}:{first - start}-{int(behind) - start}"))
    return keys


def steered_count(term: SteeringTerm, prompt: int, answer: int) -> int:
    """Return how many positions a term changes while a prompt is answered.

    The last token of an answer is never read again, so that its state is not made.
    """
    first, behind = Term.of(term).span(prompt)
    return max(0, int(min(behind, prompt + answer - 1)) - first)
