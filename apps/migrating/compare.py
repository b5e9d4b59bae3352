"""The same model through this package and through what you may use today, side by side.

`python apps/migrating/compare.py` asks both the same things on the bundled model and prints where
they differ. `--write docs/migrating.md` puts what it finds into the tables of that page.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import langchain_side
import llama_index_side
from observing import Finding, Watched, attempt

from steerable_llm import SteerableHFLLM

SIDES: tuple[ModuleType, ...] = (langchain_side, llama_index_side)


def is_installed(module: str) -> bool:
    """Whether a module can be imported; what it is part of may be missing too."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def compare(side: ModuleType) -> list[Finding]:
    """Try everything with both, and print where they differ."""
    llm = SteerableHFLLM.demo()
    theirs, ours = side.make_theirs(llm), side.make_ours(llm)
    print(f"{side.TITLE}, asked {side.QUESTION!r}")
    print(f"  {side.THEIRS} answers {side.answer(theirs)!r}")
    print(f"  {side.OURS} answers {side.answer(ours)!r}")
    findings = []
    for name, probe in side.probes(llm, Watched(llm.model)).items():
        found = Finding(name, attempt(probe, theirs), attempt(probe, ours))
        findings.append(found)
        if found.theirs == found.ours:
            print(f"  same     {name}: {found.ours}")
        else:
            print(f"  differs  {name}")
            print(f"             {side.THEIRS}: {found.theirs}")
            print(f"             {side.OURS}: {found.ours}")
    print()
    return findings


def as_markdown(side: ModuleType, findings: list[Finding]) -> str:
    """The findings as a table."""
    rows = [f"| {found.name} | {found.theirs} | {found.ours} |" for found in findings]
    return "\n".join([f"| | `{side.THEIRS}` | `{side.OURS}` |", "|---|---|---|", *rows])


def write_table(page: Path, name: str, table: str) -> None:
    """Put a table between the page's marks for it."""
    before, found, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, ended, after = rest.partition(f"<!-- end of {name} -->")
    if not found or not ended:
        raise SystemExit(f"{page} has no place for the table of {name}")
    page.write_text(f"{before}{found}\n{table}\n\n{ended}{after}", encoding="utf-8")


@contextmanager
def unheard() -> Iterator[None]:
    """Print nothing that the other libraries warn of on the way: it is not the comparison."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)


def main(arguments: list[str] | None = None) -> int:
    """Compare with both, as far as they are installed; 1 if neither is."""
    parser = argparse.ArgumentParser(description="Compare this package with what you use today.")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    given = parser.parse_args(arguments)

    compared = 0
    for side in SIDES:
        module, package = side.NEEDS
        if not is_installed(module):
            print(f"{side.THEIRS} is not compared: it needs pip install {package}\n")
            continue
        findings = compare(side)
        compared += 1
        if given.write:
            write_table(given.write, side.THEIRS, as_markdown(side, findings))
    return 0 if compared else 1


if __name__ == "__main__":
    with unheard():
        code = main()
    sys.stdout.flush()
    # Where a stream of theirs has failed, a thread of theirs waits for ever.
    os._exit(code)
