"""A process that was forked from one at work answers by threads of its own."""

import os
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from steerable_llm.adapters.joining import ask
from steerable_llm.answer.places import Places
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.vision import turns

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def succeeds_in_a_fork(work: Callable[[], bool]) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(30)
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


def test_places_that_were_taken_are_free() -> None:
    places, begun, go_on = Places(1, "test"), threading.Event(), threading.Event()
    at_work = places.run(lambda: (begun.set(), go_on.wait()))
    waiting = places.run(lambda: None)
    begun.wait()
    assert succeeds_in_a_fork(lambda: places.run(lambda: None).exception(20) is None)
    go_on.set()
    assert (at_work.exception(), waiting.exception()) == (None, None)


class Slow:
    """Answers in the process that it was made in only when it is told to."""

    def __init__(self) -> None:
        self.home, self.begun, self.go_on = os.getpid(), threading.Event(), threading.Event()

    def generate_batch(self, requests: Any, cancelled: Any) -> list[str]:
        if os.getpid() == self.home:
            self.begun.set()
            self.go_on.wait()
        return ["done" for _ in requests]


def test_calls_do_not_wait_for_those_of_another_process() -> None:
    llm: Any = Slow()
    request = GenerationRequest("?")
    [at_work] = ask(llm, [request], 1)
    llm.begun.wait()
    [waiting] = ask(llm, [request], 1)

    def answered() -> bool:
        [answer] = ask(llm, [request], 1)
        return str(answer.result(20)) == "done"

    assert succeeds_in_a_fork(answered)
    llm.go_on.set()
    assert {str(at_work.result()), str(waiting.result())} == {"done"}


def test_turns_of_images_are_nobodys() -> None:
    of_one_model, held, go_on = turns(object()), threading.Event(), threading.Event()

    def hold() -> None:
        with of_one_model:
            held.set()
            go_on.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()

    def taken() -> bool:
        with of_one_model:
            return True

    assert succeeds_in_a_fork(taken)
    go_on.set()
    holder.join()
