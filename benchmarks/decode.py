"""What a token costs: the product, `model.generate` and a bare loop, unsteered and steered.

    python benchmarks/decode.py --model exhibit
    python benchmarks/decode.py --model smollm2 --batch 1 8

Every contestant answers the same prompts greedily with the same number of tokens, in one process
and on one thread (`--threads`), in an order that is drawn anew each round:

- product: `llm.generate_batch`, whole: template, checks, cache, text, record of what was applied;
- product again: the same once more, so that its ratio to the first shows the noise (A/A);
- product steered: a random vector on all blocks, the length of the states kept (eq. 8);
- generate: `model.generate` of transformers on the same token ids;
- bare loop: the model and its cache, nothing else;
- bare loop steered: with the shortest hook that computes eq. 7 and eq. 8, for one vector and one
  scope, that counts nothing: what steering costs at the least.

A step lasts from the start of one pass through the model to the start of the next, and so holds
the choice of the token and everything else that happens between. Time is the processor time of
this process, which a busy machine changes less than the clock (it still shares its caches); on a
GPU it is the clock's. Ratios compare the median step of a call with that of the call of `product`
in the same round; the table has their median and quartiles over rounds. The first pass, which reads
the prompts, is given by itself.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Table, Text, numeric
from steerable_llm.runtime.forward import padded
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector

STRENGTH = 0.3
"""Share of the states' length that all blocks add together."""
COUNTRIES = ("France", "Portugal", "Norway", "Chile", "Japan", "Kenya", "New Zealand", "Peru")


@dataclass
class Calls:
    """What the calls of one contestant took, in seconds.

    Attributes:
        before: From the start of a call to its second pass: encode, read the prompts, choose.
        step: The median of each call's steps.
    """

    before: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)


class Contest:
    """One model, one batch of prompts, and the ways to answer them."""

    def __init__(self, llm: SteerableHFLLM, batch: int, tokens: int) -> None:
        self.llm, self.model, self.tokens = llm, llm.model, tokens
        self.device = llm.device
        asked = [f"Tell me about {COUNTRIES[i % len(COUNTRIES)]}." for i in range(batch)]
        self.prompts = [llm.encode(text) for text in asked]
        source = torch.Generator().manual_seed(0)
        width = llm.fingerprint.hidden_size
        blocks = range(len(llm.blocks))
        vector = SteeringVector(
            "random",
            {layer: torch.randn(width, generator=source) for layer in blocks},
            self._lengths(),
            llm.fingerprint,
        )
        self.steering = vector.steer(STRENGTH, unit="total", scope="generated")
        self.requests = {
            steered: [
                GenerationRequest(
                    text,
                    self.steering if steered else Steering.none(),
                    max_new_tokens=tokens,
                    temperature=0,
                )
                for text in asked
            ]
            for steered in (False, True)
        }
        self.contestants: dict[str, Callable[[], None]] = {
            "product": lambda: self.product(False),
            "product again": lambda: self.product(False),
            "product steered": lambda: self.product(True),
            "generate": self.generate,
            "bare loop": self.bare_loop,
            "bare loop steered": self.bare_loop_steered,
        }

    @torch.no_grad()
    def _lengths(self) -> dict[int, float]:
        ids = torch.tensor([self.prompts[0]], device=self.device)
        states = self.model(ids, output_hidden_states=True).hidden_states[1:]
        return {layer: float(state[0, -1].float().norm()) for layer, state in enumerate(states)}

    def product(self, steered: bool) -> None:
        answers = self.llm.generate_batch(self.requests[steered], batch_size=len(self.prompts))
        assert all(len(answer.token_ids) == self.tokens for answer in answers)
        assert all(bool(answer.steered) == steered for answer in answers)

    def generate(self) -> None:
        ids, mask = (each.to(self.device) for each in padded(self.prompts, "left"))
        settings = GenerationConfig(do_sample=False, max_new_tokens=self.tokens, pad_token_id=0)
        made = self.model.generate(ids, attention_mask=mask, generation_config=settings)
        assert made.shape[1] == ids.shape[1] + self.tokens
        made.tolist()

    @torch.no_grad()
    def bare_loop(self) -> None:
        ids, mask = (each.to(self.device) for each in padded(self.prompts, "left"))
        full = bool(mask.all())
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        cache = DynamicCache(config=self.model.config)
        for _ in range(self.tokens):
            logits = self.model(
                input_ids=ids,
                attention_mask=None if full else mask,
                position_ids=positions,
                past_key_values=cache,
                logits_to_keep=1,
            ).logits
            ids = logits[:, -1].argmax(-1, keepdim=True)
            ids.tolist()
            positions = positions[:, -1:] + 1
            if not full:
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)

    def bare_loop_steered(self) -> None:
        deltas = {
            layer: delta.to(self.device)
            for layer in self.steering.layers
            for _, delta in self.steering.deltas(layer)
        }

        def lean(delta: Tensor) -> Callable[[Any, Any, Any], Any]:
            def hook(_module: Any, _inputs: Any, h: Any) -> Any:
                before = h.float()
                after = before + delta
                old, new = (
                    torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (before, after)
                )
                return (after * (old / new)).to(h.dtype)

            return hook

        handles = [self.llm.blocks[i].register_forward_hook(lean(d)) for i, d in deltas.items()]
        try:
            self.bare_loop()
        finally:
            for handle in handles:
                handle.remove()


def clock(device: torch.device) -> float:
    """Seconds: of the processor, or of the clock where a GPU works."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@contextmanager
def passes(model: Any, device: torch.device) -> Iterator[list[float]]:
    """Note when each pass through a model starts."""
    starts: list[float] = []
    handle = model.register_forward_pre_hook(lambda *_: starts.append(clock(device)))
    try:
        yield starts
    finally:
        handle.remove()


def measure(contest: Contest, rounds: int, only: list[str] | None) -> dict[str, Calls]:
    """Run everyone once unmeasured, and then in rounds, each in an order of its own."""
    names = [name for name in contest.contestants if not only or name in only]
    calls = {name: Calls() for name in names}
    source = random.Random(0)
    with passes(contest.model, contest.device) as starts:
        for name in names:
            contest.contestants[name]()
        for _ in range(rounds):
            source.shuffle(names)
            for name in names:
                starts.clear()
                begin = clock(contest.device)
                contest.contestants[name]()
                steps = [after - at for at, after in pairwise(starts[1:])]
                calls[name].before.append(starts[1] - begin)
                calls[name].step.append(statistics.median(steps))
    return calls


def quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def load(args: argparse.Namespace) -> SteerableHFLLM:
    dtype = getattr(torch, args.dtype)
    if args.model == "exhibit":
        llm = SteerableHFLLM.demo()
    elif args.model == "smollm2":
        llm = SteerableHFLLM.smollm2()
    else:
        llm = SteerableHFLLM.from_pretrained(args.model, dtype=dtype)
    llm.model.to(args.device, dtype)
    # All answers are to be of one length.
    llm.end_ids = frozenset()
    llm.model.generation_config.eos_token_id = None
    return llm


def run(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    llm = load(args)
    result: dict[str, Any] = {
        "model": args.model,
        "blocks": len(llm.blocks),
        "dtype": args.dtype,
        "device": torch.cuda.get_device_name()
        if args.device == "cuda"
        else (platform.processor() or platform.machine()),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "new_tokens": args.tokens,
        "rounds": args.rounds,
        "time": "clock" if args.device == "cuda" else "processor",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
        "batches": {},
    }
    for batch in args.batch:
        contest = Contest(llm, batch, args.tokens)
        calls = measure(contest, args.rounds, args.only)
        base = calls["product"]
        result["prompt_tokens"] = max(map(len, contest.prompts))
        result["batches"][batch] = {
            name: {
                "before_ms": 1000 * statistics.median(own.before),
                "step_ms": 1000 * statistics.median(own.step),
                "tokens_per_second": batch / statistics.median(own.step),
                "ratio": quartiles([a / b for a, b in zip(own.step, base.step, strict=True)]),
                "all_step_ms": [1000 * seconds for seconds in own.step],
            }
            for name, own in calls.items()
        }
    result["load_after"] = os.getloadavg()[0]
    return result


def show(result: dict[str, Any]) -> None:
    per = "tokens/CPU-s" if result["time"] == "processor" else "tokens/s"
    head = numeric("first ms", "step ms", per, "x product", "quartiles")
    rows = [
        [
            f"{name}, {batch}",
            f"{row['before_ms']:.1f}",
            f"{row['step_ms']:.2f}",
            f"{row['tokens_per_second']:.1f}",
            f"{row['ratio'][1]:.3f}",
            f"{row['ratio'][0]:.3f} to {row['ratio'][2]:.3f}",
        ]
        for batch, contestants in result["batches"].items()
        for name, row in contestants.items()
    ]
    title = f"{result['model']}, {result['blocks']} blocks, {result['dtype']}"
    said = (
        f"{result['device']}, {result['threads']} thread(s), {result['time']} time; up to "
        f"{result['prompt_tokens']} prompt tokens, {result['new_tokens']} new ones, "
        f"{result['rounds']} rounds; load {result['load_before']:.1f} before and "
        f"{result['load_after']:.1f} after; "
        + ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    )
    Console().print(Page(title, [Table(["with its batch", *head], rows), Text(said)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="exhibit", help="exhibit, smollm2, or the folder or Hub id of a model"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="rows at a time")
    parser.add_argument("--tokens", type=int, default=24, help="new tokens of each answer")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--only", nargs="+", help="contestants to run; 'product' must be among them"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.only and "product" not in args.only:
        parser.error("--only must name 'product', which everything is compared with")
    if args.tokens < 4:
        parser.error("--tokens must be at least 4: the first pass and the last are no steps")
    result = run(args)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
