"""Every exception the package raises on purpose, as one tree.

::

    SteerableError
    |-- InvalidInputError                        an argument has a value that cannot be used
    |   |-- PairError                            a preference pair is empty or says nothing
    |   |-- PromptTooLongError                   prompt and answer do not fit the context window
    |   `-- EmptyLogError                        an answer log holds no usable answer
    |-- VectorFileError                          a vector file cannot be used
    |   |-- NotAVectorError                      it is no vector file, or it is cut short
    |   |-- FutureVersionError                   a newer version of this package wrote it
    |   `-- TamperedVectorError                  its content does not match its own hash
    |-- GateFileError                            a gate file cannot be used
    |-- ModelMismatchError                       a vector or gate meets a model it was not made for
    |-- UnknownArchitectureError                 the decoder blocks of a model cannot be told
    |-- AttributionError                         gradients are missing or not finite
    |-- CalibrationError                         no setting satisfies the capability budget
    |-- SteeringNotAppliedError                  a steering was asked for and reached no layer
    |-- PolicyError                              a policy file is wrong
    |   |-- UnknownStepError                     a step that the policy does not name
    |   |-- UnknownVectorError                   a vector that the policy cannot find
    |   `-- UnknownGateError                     a gate that the policy cannot find
    |-- AnswerLogError                           an answer log cannot be opened, read or written
    |-- HubError                                 the Hugging Face Hub cannot be reached, or refuses
    |-- OverloadedError                          more is asked at once than the limits allow
    |-- DeadlineError                            an answer took longer than its asker would wait
    |-- EngineError                              the engine has died, and what it was making with it
    `-- MissingExtraError (also ImportError)     an optional dependency is not installed

Catch ``SteerableError`` to catch all of them. Every message is one line: what was wrong, what was
expected, and how to mend it.

None of them is a ``ValueError``, ``TypeError`` or ``AttributeError``. Frameworks take these for an
answer that could not be read, and go on: LlamaIndex's query engines then say "Empty Response".
"""

from __future__ import annotations

from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import ValidationError


_LONGEST_NAME = 500


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, what the nearest known one is, and which are known."""
    names = sorted(known)
    # What is no name at all, but a text of megabytes, is not compared with any.
    nearest = get_close_matches(name, names, n=1) if len(name) <= _LONGEST_NAME else []
    name = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    return f"{name!r} is not a known {kind}{hint} known: {', '.join(names) or 'none'}"


def brief(value: object) -> str:
    """Return a value as a message quotes it: short, whatever it is."""
    told = repr(value) if isinstance(value, str | int | float) else type(value).__name__
    return told if len(told) <= 60 else told[:59] + "…"


def first_problem(error: ValidationError) -> str:
    """Return the first thing that pydantic found wrong, with its place, on one line."""
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    what = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


class SteerableError(Exception):
    """Root of the tree: every error this package raises on purpose."""


class InvalidInputError(SteerableError):
    """An argument has a value that cannot be used.

    Attributes:
        argument: Its name, for programs; None where the message alone tells it.
    """

    argument: str | None = None


class PairError(InvalidInputError):
    """A preference pair is empty, or its two answers are the same."""


class PromptTooLongError(InvalidInputError):
    """Prompt and answer together do not fit the model's context window.

    Attributes:
        prompt_tokens: Length of the encoded prompt, in tokens.
        max_new_tokens: Tokens asked for (or needed) after the prompt.
        context_window: Tokens the model can hold.
        at_least: Whether the prompt may be longer still: nobody counted to its end.
        which: Whose prompt it is, such as "pair 'a'", where it is one of many.
    """

    def __init__(
        self,
        prompt_tokens: int,
        max_new_tokens: int,
        context_window: int,
        at_least: bool = False,
        which: str = "",
    ) -> None:
        """Keep the three lengths; the message is made from them."""
        # All go to Exception.args, so that the error survives pickling between processes.
        super().__init__(prompt_tokens, max_new_tokens, context_window, at_least, which)
        self.prompt_tokens = prompt_tokens
        self.max_new_tokens = max_new_tokens
        self.context_window = context_window
        self.at_least = at_least
        self.which = which

    def __str__(self) -> str:
        """Say all three lengths and what to change."""
        least = "at least " if self.at_least else ""
        which = f"{self.which}: " if self.which else ""
        new = self.max_new_tokens
        needed = f" and {new} more are needed" if new else ""
        fewer = " or ask for fewer new tokens" if new else ""
        return (
            f"{which}the prompt has {least}{self.prompt_tokens} tokens{needed}, but the model's "
            f"context window holds {self.context_window}: shorten the prompt (fewer or shorter "
            f"passages){fewer}"
        )


class EmptyLogError(InvalidInputError):
    """An answer log holds no answer that can be used."""


class AnswerLogError(SteerableError):
    """The database of an answer log cannot be opened, read or written."""


class HubError(SteerableError):
    """The Hugging Face Hub cannot be reached, or does not let this be read or written."""


class OverloadedError(SteerableError):
    """More is asked at once than the limits of an engine allow.

    Attributes:
        retry_after: Seconds after which it may be worth trying again.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        """Keep the seconds beside the message."""
        super().__init__(message, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        """Say the message alone."""
        return str(self.args[0])


class DeadlineError(SteerableError):
    """An answer took longer than whoever asked for it would wait."""


class EngineError(SteerableError):
    """An engine has died: it makes no more answers, and those it was making are lost."""


class VectorFileError(SteerableError):
    """A steering-vector file cannot be used."""


class NotAVectorError(VectorFileError):
    """The file is not a steering vector, or it is cut short."""


class FutureVersionError(VectorFileError):
    """The file was written by a newer version of this package."""


class TamperedVectorError(VectorFileError):
    """The file's content does not match the hash it carries."""


class GateFileError(SteerableError):
    """A gate file cannot be used: it is missing, cut short, changed, or of another kind."""


class ModelMismatchError(SteerableError):
    """A steering vector, or a gate, was given to a model it was not made for."""


class UnknownArchitectureError(SteerableError):
    """The decoder blocks of a model cannot be told from its module tree."""


class AttributionError(SteerableError):
    """An attribution failed: gradients are missing, or not finite."""


class CalibrationError(SteerableError):
    """No tried setting of a vector stays within the capability budget."""


class SteeringNotAppliedError(SteerableError):
    """A steering was asked for, yet it reached no layer of the model."""


class PolicyError(SteerableError):
    """A policy is wrong in itself."""


class UnknownStepError(PolicyError):
    """A step that the policy does not name."""


class UnknownVectorError(PolicyError):
    """A vector that the policy names and cannot find."""


class UnknownGateError(PolicyError):
    """A gate that the policy names and cannot find."""


class MissingExtraError(SteerableError, ImportError):
    """An optional dependency is not installed; the message names the ``pip install``."""


@contextmanager
def from_extra(extra: str, what: str) -> Iterator[None]:
    """Say which extra of this package mends it where something cannot be imported.

    Args:
        extra: Its name.
        what: What needs which package, for the message.

    Raises:
        MissingExtraError: In place of any other `ImportError`.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{what} ({error}): pip install 'steerable-llm[{extra}]'"
        ) from error


@contextmanager
def told_to_pydantic() -> Iterator[None]:
    """Raise errors of ours as the ``ValueError`` that pydantic expects of a validator.

    It says then which field of what was wrong; any other error passes through it. Also a decorator
    of a validator.
    """
    try:
        yield
    except SteerableError as error:
        raise ValueError(str(error)) from error


def wrong_value(argument: str, message: str) -> InvalidInputError:
    """Return the error for the value of an argument, which it names for programs as well."""
    error = InvalidInputError(message)
    error.argument = argument
    return error


def not_numbers() -> SteerableError:
    """Return the error for scores of a model that are NaN; generating and scoring tell it alike."""
    return SteerableError(
        "the model's scores are not numbers (NaN): the steering is too strong for this "
        "dtype, or the weights are damaged; lower the strength or load in float32"
    )
