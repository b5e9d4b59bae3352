"""Errors that LlamaIndex would swallow, and how they reach the caller all the same.

Its synthesizers, extractors and selectors take a `ValueError`, `TypeError` or `AttributeError` for
an answer that could not be read and go on, in the end with "Empty Response". So no error of ours is
one, and one of anybody's that a model raises while it answers becomes one of ours.

Its sub-question engine goes on after any exception at all, and answers from the sub-questions that
are left, be it none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from llama_index.core.query_engine import SubQuestionQueryEngine

from steerable_llm.adapters.surroundings import raise_failure, record_steering
from steerable_llm.errors import SteerableError

_TAKEN_FOR_UNREADABLE = (ValueError, TypeError, AttributeError)
_TELLS = "_steer_tells"


@contextmanager
def told_as_ours() -> Iterator[None]:
    """Raise what LlamaIndex would take for an unreadable answer as an error that it lets through.

    Raises:
        SteerableError: In place of such an error, which is its cause.
    """
    try:
        yield
    except _TAKEN_FOR_UNREADABLE as error:
        said = " ".join(str(error).split())
        raise SteerableError(
            f"the model failed while answering ({type(error).__name__}: {said}): "
            "the cause is in the traceback above"
        ) from error


def tell_of_sub_questions() -> None:
    """Let a sub-question that our models could not answer end its engine's query.

    LlamaIndex hands over neither the error nor a place to look for one, so that the methods
    themselves are wrapped; what other models raise goes the way that it always went.
    """
    for name in ("_query_subq", "_aquery_subq"):
        ask = getattr(SubQuestionQueryEngine, name, None)
        if ask is not None and not hasattr(ask, _TELLS):
            setattr(SubQuestionQueryEngine, name, _telling(ask))


def _telling(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    def told(*args: Any, **kwargs: Any) -> Any:
        with record_steering() as record:
            answer = ask(*args, **kwargs)
        if answer is None:
            raise_failure(record)
        return answer

    @wraps(ask)
    async def atold(*args: Any, **kwargs: Any) -> Any:
        with record_steering() as record:
            answer = await ask(*args, **kwargs)
        if answer is None:
            raise_failure(record)
        return answer

    telling = atold if iscoroutinefunction(ask) else told
    setattr(telling, _TELLS, True)
    return telling
