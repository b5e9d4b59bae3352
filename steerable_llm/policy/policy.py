"""Which steps of a chain are steered, by what: a TOML file.

```toml
default_step = "reply"          # used when a request names no step
vectors_dir = "../vectors"      # relative to this file

[steps.answer]
vectors = [{ name = "demo-faithfulness" }]                    # as calibrated
match = { node = ["answer_*"], prompt_type = ["text_qa"] }    # what counts as this step, too
when = { context = "present" }

[steps.reply]
vectors = [{ name = "demo-toxicity", strength = 0.05, layers = [2, 3], scope = "generated" }]

[steps.condense]                # known, and never steered
```
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, PrivateAttr, ValidationError

from steerable_llm.embedding import Embedder, SentenceEmbedder
from steerable_llm.errors import (
    InvalidInputError,
    PolicyError,
    SteerableError,
    UnknownGateError,
    UnknownStepError,
    UnknownVectorError,
    unknown,
)
from steerable_llm.policy.file import (
    FileTable,
    Kind,
    Step,
    When,
    explain,
    matching_step,
    shortened,
    with_inherited,
)
from steerable_llm.policy.gate import Gate
from steerable_llm.policy.steered_step import SteeredStep, describe_step, look_up
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector

KILL_SWITCH = "STEERABLE_LLM_DISABLED"
"""The environment variable that switches every policy off while it is set; read per request."""

_SUFFIX = ".safetensors"
_MOST_BYTES = 10_000_000
T = TypeVar("T")


def policy_path(given: object) -> Path:
    """Return the path of a policy file.

    Raises:
        InvalidInputError: It is no path.
    """
    if not isinstance(given, str | os.PathLike):
        raise InvalidInputError(
            f"policy is a {type(given).__name__}: give the path of a policy file, or "
            "Policy.from_dict(...)"
        )
    return Path(given)


class Policy(FileTable):
    """Step name to steering. Make one with `Policy.load` or `Policy.from_dict`.

    Attributes:
        default_step: The step of a request that names none; None leaves such requests unsteered.
        enabled: False switches all steering off and changes nothing else.
        vectors_dir: Where the vector files lie.
        gates_dir: Where the gate files lie; None is where the vectors do.
        steps: What each step gets, as the file says it.
    """

    default_step: str | None = None
    enabled: bool = True
    vectors_dir: str = "."
    gates_dir: str | None = None
    steps: dict[str, Step] = Field(default_factory=dict)
    _steered: dict[str, SteeredStep] = PrivateAttr(default_factory=dict)
    _vectors: dict[str, SteeringVector] = PrivateAttr(default_factory=dict)
    _gates: dict[str, Gate] = PrivateAttr(default_factory=dict)
    _embedder: Embedder | None = PrivateAttr(default=None)
    _content: str | None = PrivateAttr(default=None)
    _said: set[str] = PrivateAttr(default_factory=set)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        vectors: Mapping[str, SteeringVector] | None = None,
        gates: Mapping[str, Gate] | None = None,
        embedder: Embedder | None = None,
    ) -> Self:
        """Read a policy file and the vectors and gates that it names.

        Args:
            path: The TOML file.
            vectors: Vectors by name, in place of the files in `vectors_dir`.
            gates: Gates by name, in place of the files in `gates_dir`.
            embedder: What embeds for the gates; default is the model each was trained with.

        Raises:
            InvalidInputError: It is no path.
            PolicyError: No such file, not TOML, no steps, an unknown key, a value of the wrong
                kind, steps that inherit in a circle.
            UnknownStepError: `default_step` or `inherits` names no step of the file.
            UnknownVectorError: There is no vector of that name.
            UnknownGateError: There is no gate of that name.
            VectorFileError: A vector file cannot be read.
            GateFileError: A gate file cannot be read.
        """
        source = policy_path(path)
        try:
            if source.stat().st_size > _MOST_BYTES:
                raise PolicyError(
                    f"{source} has more than {_MOST_BYTES // 10**6} MB: give a policy file"
                )
            text = source.read_text(encoding="utf-8-sig")  # some editors write a mark before it
        except OSError as error:
            raise PolicyError(
                f"cannot read the policy file {shortened(source)} ({error.strerror}): "
                "check the path"
            ) from error
        except UnicodeDecodeError as error:
            raise PolicyError(f"{source} is not valid TOML: {error}") from error
        return cls.from_toml(text, vectors, source.parent, str(source), gates, embedder)

    @classmethod
    def from_toml(
        cls,
        text: str,
        vectors: Mapping[str, SteeringVector] | None = None,
        directory: str | os.PathLike[str] = ".",
        source: str = "the policy",
        gates: Mapping[str, Gate] | None = None,
        embedder: Embedder | None = None,
    ) -> Self:
        """Make a policy from the text of a policy file; the arguments are those of `from_dict`.

        Raises:
            PolicyError: As for `load`.
        """
        try:
            data = tomllib.loads(text)
        # What TOML's reader raises itself, and Python for numbers of thousands of digits.
        except (ValueError, RecursionError, OverflowError) as error:
            raise PolicyError(f"{source} is not valid TOML: {error}") from error
        policy = cls.from_dict(data, vectors, directory, source, gates, embedder)
        # Also what a file holds for a moment while it is written: nothing, or its first lines.
        if not policy.steps:
            raise PolicyError(f"{source} has no steps: a policy has at least one [steps.NAME]")
        return policy

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        vectors: Mapping[str, SteeringVector] | None = None,
        directory: str | os.PathLike[str] = ".",
        source: str = "the policy",
        gates: Mapping[str, Gate] | None = None,
        embedder: Embedder | None = None,
    ) -> Self:
        """Make a policy from the content of a policy file.

        Args:
            data: What the TOML file would hold.
            vectors: As for `load`.
            directory: What `vectors_dir` and `gates_dir` are relative to.
            source: What error messages call it.
            gates: As for `load`.
            embedder: As for `load`.

        Raises:
            PolicyError: As for `load`.
        """
        try:
            policy = cls.model_validate(dict(data))
        except ValidationError as error:
            raise PolicyError(f"{source}: {explain(error)}") from error
        if policy.default_step is not None and policy.default_step not in policy.steps:
            raise UnknownStepError(
                f"{source}: default_step {unknown('step', policy.default_step, policy.steps)}"
            )
        try:
            steps = with_inherited(policy.steps)
        except PolicyError as error:
            raise type(error)(f"{source}: {error}") from error
        folder = Path(directory)
        find_vector = _finder(
            "vector", vectors, folder / policy.vectors_dir, SteeringVector.load,
            UnknownVectorError, source,
        )  # fmt: skip
        find_gate = _finder(
            "gate", gates, folder / (policy.gates_dir or policy.vectors_dir), Gate.load,
            UnknownGateError, source,
        )  # fmt: skip
        for name, step in steps.items():
            policy._vectors |= {use.name: find_vector(use.name) for use in step.vectors}
            try:
                policy._steered[name] = look_up(step, policy._vectors.__getitem__)
            except PolicyError as error:
                raise PolicyError(f"{source}: step {name!r}: {error}") from error
            for when in (step.when, *(when for _, when in policy._steered[name].parts)):
                if when.gate is not None:
                    policy._gates[when.gate.name] = find_gate(when.gate.name)
        policy._embedder = embedder
        content = {
            "default_step": policy.default_step,
            "steps": {name: describe_step(policy._steered[name], steps[name]) for name in steps},
            "gates": {name: gate.fingerprint_id for name, gate in policy._gates.items()},
        }
        policy._content = json.dumps(content, sort_keys=True)
        return policy

    def step_for(self, name: str | None, kind: Kind = "step") -> str | None:
        """Return the step that a name means; None is the default step's.

        Args:
            name: A step's own name, or what one of its `match` patterns of this kind fits.
            kind: Where the name comes from.

        Returns:
            The step's name in the policy. None if there is no default step, or if a name of
            another kind than "step" means none.

        Raises:
            UnknownStepError: The application named a step that the policy does not have.
        """
        if name is None:
            return self.default_step
        found = matching_step(name, kind, self.steps)
        if found is None and kind == "step":
            raise UnknownStepError(unknown("step", name, self.steps))
        return found

    def steering_for(self, step: str | None = None) -> Steering:
        """Return what a request of this step gets at most; None is the default step.

        Conditions depend on a request, and there is none here: all are taken to hold.

        Raises:
            UnknownStepError: The policy has no such step; the message lists those it has.
        """
        name = self.step_for(step)
        if name is None:
            return Steering.none()
        steering = self.steered_step(name).steering
        return Steering.none() if self.off else steering

    def steered_step(self, name: str) -> SteeredStep:
        """Return a step with its vectors and their conditions, whether the policy is on or off.

        Raises:
            PolicyError: The policy was not made by `load` or `from_dict`.
        """
        if name not in self._steered:
            raise PolicyError(
                "this policy has not looked up its vectors: "
                "make it with Policy.load(path) or Policy.from_dict(data, vectors=...)"
            )
        return self._steered[name]

    def conditions(self, name: str, vector: SteeringVector | None = None) -> When:
        """Return the conditions under which a step steers with a vector, or would do so.

        Args:
            name: The step's own name.
            vector: One that the step has may have conditions of its own; any other gets the step's.
        """
        for term, when in self.steered_step(name).terms:
            if vector is not None and term.vector.fingerprint_id == vector.fingerprint_id:
                return when
        return with_inherited(self.steps)[name].when

    @property
    def instructions(self) -> tuple[str, ...]:
        """Every instruction that a request can get at present."""
        steps = () if self.off else self._steered.values()
        return tuple(dict.fromkeys(step.instruction[0] for step in steps if step.instruction))

    @property
    def off(self) -> str | None:
        """Why the policy steers nothing at present; None if it is on."""
        if os.environ.get(KILL_SWITCH, "").strip().lower() not in ("", "0", "false", "no", "off"):
            return f"the environment variable {KILL_SWITCH} switches steering off"
        return None if self.enabled else "the policy is switched off (enabled = false)"

    @property
    def vectors(self) -> Mapping[str, SteeringVector]:
        """The vectors that the steps name."""
        return dict(self._vectors)

    @property
    def gates(self) -> Mapping[str, Gate]:
        """The gates that the steps ask."""
        return dict(self._gates)

    def probabilities(self, gate: str, texts: Sequence[str]) -> list[float]:
        """Return what a gate says of some questions.

        Raises:
            ModelMismatchError: The embedding model is not the one the gate was trained with.
        """
        return self._gates[gate].probabilities(texts, self._embedder_of(self._gates[gate]))

    def check(self, fingerprint: ModelFingerprint, force: bool = False) -> None:
        """Make sure that every vector fits a model, and every gate its embedding model.

        Raises:
            ModelMismatchError: A vector was built for another model, or a gate trained with
                another embedding model than the one at hand.
        """
        for vector in self._vectors.values():
            vector.check(fingerprint, force=force)
        for gate in self._gates.values():
            gate.check(self._embedder_of(gate))

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides what is applied, the kill switch included.

        Two policies with the same digest steer alike, wherever their files lie and in whatever
        order they say it.
        """
        content = f"{self._content or self.model_dump_json()}|{'off' if self.off else 'on'}"
        return hashlib.sha256(content.encode()).hexdigest()

    def is_first(self, subject: str) -> bool:
        """Return whether this is the first time that somebody warns of something."""
        if subject in self._said:
            return False
        self._said.add(subject)
        return True

    def _embedder_of(self, gate: Gate) -> Embedder:
        return self._embedder or _sentence_embedder(gate.embedder)


@dataclass(frozen=True)
class Hint:
    """A name that a framework gave a place in its own words, such as a LangGraph node.

    It counts where the policy has a step of that name, or one whose `match` rules for this kind
    fit it; unlike a step that the developer named, it is no error when the policy has none.

    Attributes:
        name: The framework's name; None where it has none.
        kind: What the name is the name of.
    """

    name: str | None
    kind: Literal["node", "tag", "prompt_type"]


def named_by(tags: Iterable[str]) -> list[str]:
    """Return the steps that tags of a LangChain call name, as in "steer:answer"."""
    return [tag.removeprefix("steer:") for tag in tags if tag.startswith("steer:")]


def choose_step(candidates: Iterable[str | Hint | None], policy: Policy | None) -> str | None:
    """Return the first candidate that names a step; None leaves it to the policy's default.

    A hint turns into the name of the policy's step. A name that the developer gave comes back as
    it is, and the policy matches it when it decides.
    """
    for candidate in candidates:
        step: str | None
        if not isinstance(candidate, Hint):
            step = candidate
        elif policy is None or candidate.name is None:
            continue
        else:
            step = policy.step_for(candidate.name, candidate.kind)
        if step is not None:
            return step
    return None


def _finder(
    kind: str,
    given: Mapping[str, T] | None,
    folder: Path,
    load: Callable[[Path], T],
    error: type[PolicyError],
    source: str,
) -> Callable[[str], T]:
    """Return what looks a name up in the mapping, or else in the folder, and loads it once."""

    @cache
    def find(name: str) -> T:
        if given is not None:
            if name not in given:
                raise error(f"{source}: {unknown(kind, name, given)}")
            return given[name]
        # Only names that lie in the folder are known, so "../x" is not a way out of it.
        try:
            paths = sorted(folder.glob(f"*{_SUFFIX}"))
        except (OSError, ValueError) as cause:  # too long, or no path at all
            raise PolicyError(
                f"{source}: cannot look for {kind}s in {shortened(folder)} ({_why(cause)}): "
                f"check {kind}s_dir"
            ) from cause
        files = {path.name.removesuffix(_SUFFIX): path for path in paths}
        if name not in files:
            # Vectors and gates may share a folder: only what could have been meant is offered.
            fitting = [each for each, path in files.items() if _can_load(load, path)]
            raise error(
                f"{source}: {unknown(kind, shortened(name), fitting)} in {shortened(folder)}"
            )
        return load(files[name])

    return find


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _can_load(load: Callable[[Path], object], path: Path) -> bool:
    try:
        load(path)
    except SteerableError:
        return False
    return True


# Shared by all policies: a reloaded file must not load the embedding model's hash again.
@cache
def _sentence_embedder(name: str) -> SentenceEmbedder:
    return SentenceEmbedder(name)
