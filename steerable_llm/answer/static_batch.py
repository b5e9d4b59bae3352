"""Prompts that begin together and stay together, for models whose rows cannot join, and images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import torch

from steerable_llm.answer.job import Job, take_tokens
from steerable_llm.chat.vision import in_one_batch
from steerable_llm.runtime.contrast import contrasted
from steerable_llm.runtime.forward import run_prompts
from steerable_llm.runtime.hooked_model import HookedModel


class StaticBatch:
    """Prompts that begin together, on the inputs of the model's own `generate`."""

    def __init__(self, llm: HookedModel, jobs: Sequence[Job]) -> None:
        """Read the prompts, and what one that is alone had of its answer.

        All have images, or none has.
        """
        self._places: list[Job | None] = list(jobs)
        self._turn = ExitStack()
        prompts = [job.prompt for job in jobs]
        with ExitStack() as turn:
            turn.enter_context(llm.turns)
            # Not shared: a seed draws the same, whatever else is in the batch.
            full = run_prompts(
                llm,
                [prompt.tokens for prompt in prompts],
                [prompt.steering for prompt in prompts],
                in_one_batch([prompt.read for prompt in prompts], "left"),
                share=False,
            )
            self._stream = contrasted(
                llm,
                full,
                [prompt.bare for prompt in prompts],
                [prompt.contrast for prompt in prompts],
            )
            self._plan, self._scores = full.plan, self._stream.first
            for token in jobs[0].answer.tokens:
                self._scores = self._stream.feed(torch.tensor([[token]]))[:, -1]
            self._turn = turn.pop_all()

    @property
    def jobs(self) -> list[Job]:
        """Those that are not done."""
        return [job for job in self._places if job is not None]

    def step(self) -> None:
        """Choose the next token of each, and feed it."""
        for place, job in enumerate(self._places):
            if job is not None and job.ended:
                self._done(place)
        places = [place for place, job in enumerate(self._places) if job is not None]
        jobs = self.jobs
        if not jobs:
            return
        for place, job, whole in zip(
            places, jobs, take_tokens(jobs, self._scores[places]), strict=True
        ):
            if whole:
                job.finish(partial(self._plan.steered_tokens, place))
                self._done(place)
        if self.jobs:
            last = [0 if job is None else job.answer.tokens[-1] for job in self._places]
            self._scores = self._stream.feed(torch.tensor(last)[:, None])[:, -1]

    def _done(self, place: int) -> None:
        self._stream.finish(place)
        self._places[place] = None

    def close(self) -> None:
        """Let others have their turn."""
        self._turn.close()
