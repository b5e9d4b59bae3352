"""The same model through this package and through what you may use today, side by side.

`python apps/migrating/compare.py` asks both the same things on the bundled model and prints where
they differ. With `--markdown` it prints the tables of the documentation's page on migrating.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import langchain_side
import llama_index_side
from observing import Finding, Side, Watched

from steerable_llm import SteerableHFLLM

SIDES: dict[str, tuple[str, Callable[[SteerableHFLLM, Watched], Side]]] = {
    "ChatHuggingFace": ("langchain_huggingface", langchain_side.make),
    "HuggingFaceLLM": ("llama_index.llms.huggingface", llama_index_side.make),
}
PACKAGES = {
    "langchain_huggingface": "langchain-huggingface",
    "llama_index.llms.huggingface": "llama-index-llms-huggingface",
}


def is_installed(module: str) -> bool:
    """Whether a module can be imported; its parents may be missing too."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def as_text(side: Side, findings: list[Finding]) -> str:
    """The findings for a terminal: what differs, then what does not."""
    lines = [f"{side.title}", f"  asked: {side.question!r}"]
    lines += [f"  {name} answers: {text!r}" for name, text in side.answers.items()]
    for finding in findings:
        if finding.theirs == finding.ours:
            lines.append(f"  same    {finding.name}: {finding.ours}")
        else:
            lines.append(f"  differs {finding.name}")
            lines.append(f"            {side.their_name}: {finding.theirs}")
            lines.append(f"            {side.our_name}: {finding.ours}")
    return "\n".join(lines)


def as_markdown(side: Side, findings: list[Finding]) -> str:
    """The findings as a table."""
    rows = [f"| {f.name} | {f.theirs} | {f.ours} |" for f in findings]
    head = [f"| | `{side.their_name}` | `{side.our_name}` |", "|---|---|---|"]
    return "\n".join([*head, *rows])


def main(arguments: list[str] | None = None) -> int:
    """Compare both, as far as they are installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print tables for documentation")
    parser.add_argument("--only", choices=sorted(SIDES), help="compare with this one alone")
    given = parser.parse_args(arguments)
    # What the other libraries warn of on the way is not the comparison.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    missing = 0
    for name, (module, make) in SIDES.items():
        if given.only not in (None, name):
            continue
        if not is_installed(module):
            print(f"{name} is not compared: it needs pip install {PACKAGES[module]}\n")
            missing += 1
            continue
        llm = SteerableHFLLM.demo()
        side = make(llm, Watched(llm.model))
        findings = side.compare()
        print((as_markdown if given.markdown else as_text)(side, findings), end="\n\n")
    return 1 if missing == (1 if given.only else len(SIDES)) else 0


if __name__ == "__main__":
    # A failed stream of another library leaves a thread that waits for ever.
    code = main()
    sys.stdout.flush()
    os._exit(code)
