"""The local engine: a batch of prompts runs through the model at hand, token by token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from queue import SimpleQueue
from threading import Event, Lock, Thread, current_thread
from typing import TypeAlias

from steerable_llm.answer.answer import Answer
from steerable_llm.answer.constraint import GrammarMask
from steerable_llm.answer.engine import Limits, Prompt
from steerable_llm.answer.logprobs import LogprobNotes
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.places import STREAMS, Places
from steerable_llm.answer.request import AppliedVector, Generation, GenerationChunk
from steerable_llm.answer.sampling import RowSampler, RowShaping
from steerable_llm.chat.vision import in_one_batch
from steerable_llm.errors import DeadlineError, InvalidInputError, OverloadedError
from steerable_llm.runtime.contrast import contrasted
from steerable_llm.runtime.decoding import decode
from steerable_llm.runtime.forward import run_prompts
from steerable_llm.runtime.hooked_model import HookedModel

OnChunk: TypeAlias = Callable[[int, GenerationChunk], None]
"""Called with row and chunk after every token of an unfinished row."""


class LocalEngine:
    """Run prompts on a model in this process, in batches that start and end together."""

    def __init__(self, llm: HookedModel) -> None:
        """Remember the model; its weights are shared."""
        self._llm = llm
        self._places = Places(STREAMS, "stream")
        self.limits = Limits()
        self._pending: set[Pending] = set()
        self._lock = Lock()

    alive = True

    @property
    def running(self) -> int:
        """How many prompts it is at work on."""
        return sum(each.times.begun is not None for each in tuple(self._pending))

    @property
    def waiting(self) -> int:
        """How many wait in its queue."""
        return len(self._pending) - self.running

    def submit(
        self, prompt: Prompt, cancelled: Event | None = None, timeout: float | None = None
    ) -> Pending:
        """Begin to answer one prompt in a thread of its own.

        Raises:
            OverloadedError: The queue is full.
        """
        pending = Pending(prompt.decision, len(prompt.tokens), cancelled)
        with self._lock:
            if self.limits.queue is not None and self.waiting >= self.limits.queue:
                raise OverloadedError(
                    f"{self.waiting} prompts wait already: try again later", retry_after=1
                )
            self._pending.add(pending)
        late = None if timeout is None else pending.times.asked + timeout

        class Unwanted(Event):
            def is_set(self) -> bool:
                return pending.unwanted or super().is_set()

        stop = Unwanted()

        def put(_: int, chunk: GenerationChunk) -> None:
            if late is not None and time.monotonic() > late:
                pending.end(DeadlineError(f"the answer took longer than {timeout} s"))
            pending.put(chunk)

        def work() -> None:
            try:
                pending.times.begun = time.monotonic()
                if not pending.unwanted and (made := self._answer([prompt], stop, put)):
                    pending.end(made[0])
            except BaseException as error:
                pending.end(error)
            finally:
                with self._lock:
                    self._pending.discard(pending)

        self._places.run(work)
        return pending

    def run(
        self, prompts: Sequence[Prompt], batch_size: int, cancelled: Event | None = None
    ) -> list[Generation]:
        """Answer prompts; those of similar length run together, with images where the model can.

        Raises:
            InvalidInputError: A batch of no prompts was asked for.
            SteeringNotAppliedError: A steering reached no layer.
        """
        stop = cancelled or Event()
        answers: dict[int, Generation] = {}
        for rows in batches(self._llm, prompts, batch_size):
            made = self._answer([prompts[i] for i in rows], stop)
            if stop.is_set():
                return []
            answers.update(zip(rows, made, strict=True))
        return [answers[index] for index in range(len(prompts))]

    def stream(self, prompt: Prompt, cancelled: Event | None = None) -> Iterator[GenerationChunk]:
        """Answer one prompt in a thread, in which it is done when the iterator is."""

        def work(put: Callable[[GenerationChunk], None], stop: Event) -> Generation | None:
            return next(iter(self._answer([prompt], stop, lambda _, chunk: put(chunk))), None)

        return stream_chunks(self._places, work, cancelled)

    def _answer(
        self, prompts: Sequence[Prompt], cancelled: Event, on_chunk: OnChunk | None = None
    ) -> list[Generation]:
        """Answer prompts in one batch; returns nothing after a cancellation."""
        llm = self._llm
        answers = [Answer(prompt, llm.chat_format, llm.end_ids) for prompt in prompts]

        requests = [prompt.request for prompt in prompts]
        notes = LogprobNotes(requests, llm.tokenizer)

        def take(row: int, token: int) -> bool:
            if requests[row].logprobs:
                answers[row].logprobs.append(notes.of(row, token))
            chunk = answers[row].push(token)
            if on_chunk is not None:
                on_chunk(row, chunk)
            return answers[row].finish_reason is not None

        with llm.turns:
            if cancelled.is_set():
                return []
            # Not shared: a seed draws the same, whatever else is in the batch.
            full = run_prompts(
                llm,
                [prompt.tokens for prompt in prompts],
                [prompt.steering for prompt in prompts],
                in_one_batch([prompt.read for prompt in prompts], "left"),
                share=False,
            )
            stream = contrasted(
                llm,
                full,
                [prompt.bare for prompt in prompts],
                [prompt.contrast for prompt in prompts],
            )
            grammars = GrammarMask([prompt.grammar for prompt in prompts])
            shaping = RowShaping(
                requests, [prompt.tokens for prompt in prompts], [each.tokens for each in answers]
            )
            decode(stream, take, (notes, shaping, grammars, RowSampler(requests)), cancelled)
        if cancelled.is_set():
            return []
        return [
            answer.generation(
                tuple(
                    AppliedVector.of(term, full.plan.steered_tokens(row, term))
                    for term in answer.prompt.steering.active_terms
                )
            )
            for row, answer in enumerate(answers)
        ]


def batches(llm: HookedModel, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    """Return places of the prompts that run together, shortest first.

    Raises:
        InvalidInputError: A batch of no prompts was asked for.
    """
    if batch_size < 1:
        raise InvalidInputError(f"batch_size is {batch_size}: give at least 1")
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].tokens))
    # What is contrasted has a second stream beside it.
    keys = [None if prompt.contrast else prompt.steering.tower_key for prompt in prompts]
    return llm.image_batches.split([prompt.read for prompt in prompts], order, batch_size, keys)


Work: TypeAlias = Callable[[Callable[[GenerationChunk], None], Event], Generation | None]


def stream_chunks(
    places: Places, work: Work, cancelled: Event | None = None
) -> Iterator[GenerationChunk]:
    """Run the work in a thread and yield its chunks as they come, the whole answer last.

    Nothing runs before the first chunk is asked for. Closing the iterator (or dropping it, or an
    exception in the loop over it) stops the work after the token at hand and waits for it.
    The work waits for no reader, so a reader that takes its time keeps no place from others.

    Args:
        places: Where it runs, when one is free.
        work: Called with where to put chunks and the event that tells it to stop; returns the
            whole answer, or None if it was stopped.
        cancelled: Set by whoever wants to stop the work from outside of the loop.

    Yields:
        One chunk per token, then one with `final` set.

    Raises:
        Exception: Whatever the work raised, as it was raised.
    """
    arrived: SimpleQueue[GenerationChunk | BaseException | None] = SimpleQueue()
    stopped = Event() if cancelled is None else cancelled
    thread: Thread | None = None

    def run() -> None:
        nonlocal thread
        thread = current_thread()
        try:
            final = work(arrived.put, stopped)
            arrived.put(None if final is None else GenerationChunk("", None, final))
        except BaseException as error:  # handed over, raised again in the caller's thread
            arrived.put(error)

    # The caller's context variables (tracing and the like) are in force in the worker too.
    at_work = places.run(run)
    ended = False
    try:
        while not ended:
            item = arrived.get()
            ended = item is None or isinstance(item, BaseException) or item.final is not None
            if isinstance(item, BaseException):
                raise item
            if item is not None:
                yield item
    finally:
        # Work that has ended needs no telling, and the caller's event may stop other work, too.
        if not ended:
            stopped.set()
        # An iterator that nobody holds any more is closed wherever that is noticed, be it there.
        if not at_work.cancel() and thread is not current_thread():
            wait([at_work])
