"""Which steps of a chain are steered, by what: a TOML file.

```toml
default_step = "reply"          # used when a request names no step
vectors_dir = "../vectors"      # relative to this file

[steps.answer]
vectors = [{ name = "demo-faithfulness" }]                    # as calibrated

[steps.reply]
vectors = [{ name = "demo-toxicity", strength = 0.05, layers = [2, 3], scope = "generated" }]

[steps.condense]                # known, and never steered
```
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from steerable_llm.errors import (
    InvalidInputError,
    PolicyError,
    UnknownStepError,
    UnknownVectorError,
)
from steerable_llm.fingerprint import ModelFingerprint
from steerable_llm.steering import Scope, Steering
from steerable_llm.vector import SteeringVector

_SUFFIX = ".safetensors"


class VectorUse(BaseModel):
    """One vector of a step; what is left out comes from the vector's calibration.

    Attributes:
        name: the vector's file name without `.safetensors`.
        strength: signed, in units of each layer's residual norm.
        layers: 0-based blocks to steer.
        scope: which positions are steered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    strength: float | None = Field(default=None, allow_inf_nan=False)
    layers: tuple[int, ...] | None = None
    scope: Scope | None = None


class Step(BaseModel):
    """What one step of a chain gets; no vectors means that it is never steered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vectors: tuple[VectorUse, ...] = ()


class Policy(BaseModel):
    """Step name to steering. Make one with `Policy.load` or `Policy.from_dict`.

    Attributes:
        default_step: the step of a request that names none; None leaves such requests unsteered.
        enabled: false switches all steering off and changes nothing else.
        vectors_dir: where the vector files lie.
        steps: what each step gets.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_step: str | None = None
    enabled: bool = True
    vectors_dir: str = "."
    steps: dict[str, Step] = Field(default_factory=dict)
    _steerings: dict[str, Steering] = PrivateAttr(default_factory=dict)
    _vectors: dict[str, SteeringVector] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        vectors: Mapping[str, SteeringVector] | None = None,
    ) -> Self:
        """Read a policy file and the vectors that it names.

        Args:
            path: the TOML file.
            vectors: vectors by name, in place of the files in `vectors_dir`.

        Raises:
            PolicyError: no such file, not TOML, an unknown key, a value of the wrong kind.
            UnknownStepError: `default_step` is not a step of the file.
            UnknownVectorError: there is no vector of that name.
            VectorFileError: a vector file cannot be read.
        """
        source = Path(path)
        try:
            data = tomllib.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise PolicyError(
                f"cannot read the policy file {source} ({error.strerror}): check the path"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise PolicyError(f"{source} is not valid TOML: {error}") from error
        return cls.from_dict(data, vectors=vectors, directory=source.parent, source=str(source))

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        vectors: Mapping[str, SteeringVector] | None = None,
        directory: str | os.PathLike[str] = ".",
        source: str = "the policy",
    ) -> Self:
        """Make a policy from the content of a policy file.

        Args:
            data: what the TOML file would hold.
            vectors: vectors by name, in place of the files in `vectors_dir`.
            directory: what `vectors_dir` is relative to.
            source: what error messages call it.

        Raises:
            PolicyError: as for `load`.
        """
        try:
            policy = cls.model_validate(dict(data))
        except ValidationError as error:
            raise PolicyError(f"{source}: {_explain(error)}") from error
        if policy.default_step is not None and policy.default_step not in policy.steps:
            raise UnknownStepError(
                f"{source}: default_step {_unknown('step', policy.default_step, policy.steps)}"
            )
        folder = Path(directory) / policy.vectors_dir
        for step_name, step in policy.steps.items():
            steering = Steering.none()
            for use in step.vectors:
                if use.name not in policy._vectors:
                    policy._vectors[use.name] = _find(use.name, vectors, folder, source)
                steering = steering + _steer(policy._vectors[use.name], use, source, step_name)
            policy._steerings[step_name] = steering
        return policy

    def steering_for(self, step: str | None = None) -> Steering:
        """Return what a request of this step gets; None is the default step.

        Raises:
            UnknownStepError: the policy has no such step; the message lists those it has.
        """
        name = self.default_step if step is None else step
        if name is None:
            return Steering.none()
        if name not in self.steps:
            raise UnknownStepError(_unknown("step", name, self.steps))
        if not self.enabled:
            return Steering.none()
        if name not in self._steerings:
            raise PolicyError(
                "this policy has not looked up its vectors: "
                "make it with Policy.load(path) or Policy.from_dict(data, vectors=...)"
            )
        return self._steerings[name]

    def check(self, fingerprint: ModelFingerprint, force: bool = False) -> None:
        """Make sure that every vector of the policy fits a model.

        Raises:
            ModelMismatchError: a vector was built for another model.
        """
        for vector in self._vectors.values():
            vector.check(fingerprint, force=force)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that decides what is applied: settings, strengths and vectors.

        Two policies with the same digest steer alike, wherever their files lie.
        """
        applied = {name: describe(steering) for name, steering in self._steerings.items()}
        content = {"default_step": self.default_step, "enabled": self.enabled, "steps": applied}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def describe(steering: Steering) -> list[dict[str, Any]]:
    """Return all that tells two steerings apart, in plain values for a cache key or a hash."""
    return [
        {
            "vector": f"{term.vector.name}@{term.vector.fingerprint_id}",
            "strength": term.strength,
            "layers": None if term.layers is None else list(term.layers),
            "scope": term.scope,
            "unit": term.unit,
            "renormalise": term.renormalise,
        }
        for term in steering.terms
    ]


def _find(
    name: str,
    vectors: Mapping[str, SteeringVector] | None,
    folder: Path,
    source: str,
) -> SteeringVector:
    """Look a vector up in the mapping, or else in the folder."""
    if vectors is not None:
        if name not in vectors:
            raise UnknownVectorError(f"{source}: {_unknown('vector', name, vectors)}")
        return vectors[name]
    # Only names that lie in the folder are known, so a name such as "../x" is not a way out of it.
    files = {file.name.removesuffix(_SUFFIX): file for file in sorted(folder.glob(f"*{_SUFFIX}"))}
    if name not in files:
        raise UnknownVectorError(f"{source}: {_unknown('vector', name, files)} in {folder}")
    return SteeringVector.load(files[name])


def _steer(vector: SteeringVector, use: VectorUse, source: str, step: str) -> Steering:
    missing = sorted(set(use.layers or ()) - set(vector.directions))
    if missing:
        raise PolicyError(
            f"{source}: step {step!r} steers layers {missing} with vector {use.name!r}, "
            f"which has layers {sorted(vector.directions)}"
        )
    try:
        return vector.steer(strength=use.strength, layers=use.layers, scope=use.scope)
    except InvalidInputError as error:
        raise PolicyError(f"{source}: step {step!r}: {error}") from error


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, what the nearest known one is, and which are known."""
    names = sorted(known)
    nearest = get_close_matches(name, names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    return f"{name!r} is not a known {kind}{hint} known: {', '.join(names) or 'none'}"


def _explain(error: ValidationError) -> str:
    """Tell the first problem that pydantic found in one line, in the words of the file."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{place}: {problem['msg']} (got {problem['input']!r})"
    depth = len(problem["loc"])
    # The file has three levels: the policy itself, steps.NAME, and steps.NAME.vectors.N.
    level: type[BaseModel] = Policy if depth == 1 else Step if depth == 3 else VectorUse
    return f"{place}: {_unknown('key', str(problem['loc'][-1]), level.model_fields)}"
