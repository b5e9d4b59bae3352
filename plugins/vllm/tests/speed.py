"""Tokens per CPU-second: the hooked model one by one and in batches, and vLLM; steered and not.

CPU time and not the clock, since the cores may be shared; `make bench` runs it.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from steerable_llm import SteerableHFLLM, Steering, SteeringVector
from steerable_llm.answer.request import GenerationRequest
from steerable_vllm.served import ServedModel
from tests.serving import VECTORS, serving

PROMPTS = 16
LENGTH, ROUNDS = (int(os.environ.get(*each)) for each in (("LENGTH", "32"), ("ROUNDS", "3")))
TOPICS = ("the sea", "bread", "a bridge", "winter", "rust", "a clock", "salt", "the moon")


def seconds_of(pid: int) -> float:
    """Return the CPU time of a process and of all below it."""
    parents: dict[int, int] = {}
    times: dict[int, int] = {}
    ticks = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        times[int(entry.name)] = sum(map(int, fields[11:13]))
    for each, used in times.items():
        above = each
        while above not in (pid, 0, 1):
            above = parents.get(above, 0)
        ticks += used if above == pid else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print a table: medians over rounds, arms in turn."""
    torch.set_num_threads(1)
    folder = Path(os.environ["SMOLLM2_FOLDER"])
    local = SteerableHFLLM.from_pretrained(folder)
    vector = SteeringVector.load(VECTORS / "smollm2-documents.safetensors")
    with (
        tempfile.TemporaryDirectory() as log,
        serving(os.environ["VLLM_PYTHON"], folder, Path(log)) as server,
    ):
        far = ServedModel.connect(server.url, folder)
        arms: dict[str, tuple[SteerableHFLLM, int, Callable[[], float]]] = {
            "hooked, one by one": (local, 1, time.process_time),
            "hooked, batch of 16": (local, PROMPTS, time.process_time),
            "vLLM, 16 at once": (far, PROMPTS, lambda: seconds_of(server.pid or 0)),
        }
        found: dict[tuple[str, str], list[float]] = {}
        for turn in range(ROUNDS + 1):
            for steered, steering in (("no", Steering.none()), ("yes", vector.steer())):
                requests = [
                    GenerationRequest(
                        f"Round {turn}: tell me of {TOPICS[i % 8]}, version {i}.",
                        steering, max_new_tokens=LENGTH if turn else 2,
                    )
                    for i in range(PROMPTS)
                ]  # fmt: skip
                for name, (llm, rows, clock) in arms.items():
                    start = clock()
                    answers = llm.generate_batch(requests, batch_size=rows)
                    tokens = sum(len(answer.token_ids) for answer in answers)
                    if turn:  # the first one warms up
                        found.setdefault((name, steered), []).append(tokens / (clock() - start))
        for (name, steered), rates in found.items():
            middle = sorted(rates)[len(rates) // 2]
            print(f"| {name} | {steered} | {middle:.1f} | {min(rates):.1f}-{max(rates):.1f} |")


if __name__ == "__main__":
    main()
