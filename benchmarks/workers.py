"""From how many pairs on workers of Ray pay: what a start costs, and what a pair.

    python benchmarks/workers.py --model smollm2

Processor time of all processes, which a busy machine changes less than the clock: of a pair in one
process; of a cluster on this machine with one worker and with two, which have a single pair each;
and from these, on machines with a free core for each worker, the number of pairs from which the
answer is there earlier than in one process.
"""

import argparse
import math
import time
import warnings
from importlib.util import find_spec

from rich.console import Console

from steerable_llm import demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.methods.build import build
from steerable_llm.pairs.pair import Pairs
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Table, numeric
from steerable_llm.runtime.ray_workers import RayWorkers


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("--model", default="demo", choices=["demo", "smollm2"])
    given.add_argument("--pairs", type=int, default=8, help="that are read in one process")
    told = given.parse_args()
    if find_spec("ray") is None:
        print("Ray is not installed: pip install 'steerable-llm[ray]'")
        return
    warnings.simplefilter("ignore")
    llm = SteerableHFLLM.named(told.model)
    pairs = demo.pairs("faithfulness").sample(told.pairs, seed=0)
    build(llm, pairs[:1], progress=False)  # what is made once
    began = time.process_time()
    build(llm, pairs, progress=False)
    each = (time.process_time() - began) / len(pairs)
    one, two = (started(llm, pairs[:number]) for number in (1, 2))
    cluster, worker = max(0.0, 2 * one - two), max(0.0, two - one)
    rows: list[list[str]] = [
        ["a pair, in one process", f"{each:.2f} s"],
        ["a cluster", f"{cluster:.1f} s"],
        ["a worker, the model loaded", f"{worker:.1f} s"],
    ]
    for number in (2, 4, 8, 16):
        least = math.ceil((cluster + worker) / (each * (1 - 1 / number)))
        rows.append([f"pairs from which {number} workers pay", str(least)])
    table = Table(["", *numeric("processor time")], rows)
    Console().print(Page(f"Workers of Ray, {told.model}", [table]))


def started(llm: SteerableHFLLM, pairs: Pairs) -> float:
    """Start a cluster with a worker for each pair; returns the processor time of it all."""
    import psutil
    import ray

    began = time.process_time()
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=len(pairs) + 1)
    build(llm, pairs, workers=RayWorkers(len(pairs), part=1), progress=False)
    used = time.process_time() - began
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        used += times.user + times.system
    ray.shutdown()
    return used


if __name__ == "__main__":
    main()
