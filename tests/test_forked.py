"""A process that was forked from one at work answers by threads of its own."""

import os
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from steerable_llm.answer.llm import SteerableHFLLM
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


def test_an_engine_does_not_wait_for_what_is_under_way_in_another_process(
    tiny_llm: SteerableHFLLM,
) -> None:
    llm = SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, model_id="tiny")
    home, begun, go_on = os.getpid(), threading.Event(), threading.Event()
    request = GenerationRequest("Hi", max_new_tokens=2)

    def hold(*_: Any) -> None:
        if os.getpid() == home:
            begun.set()
            go_on.wait()

    def answered() -> bool:
        torch.set_num_threads(1)
        return llm.submit(request).result(20).usage.completion_tokens > 0

    with llm.blocks[0].register_forward_pre_hook(hold):
        at_work = llm.submit(request)
        begun.wait()
        waiting = llm.submit(request)
        assert succeeds_in_a_fork(answered)
        go_on.set()
        assert at_work.result(20) == waiting.result(20)


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
