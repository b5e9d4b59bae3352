"""How many answers a second the answer log adds, reads, imports and pairs.

    python benchmarks/log.py --rows 100000
    python benchmarks/log.py --url postgresql://me@host/empty_database

Every eighth answer is bad, half of these with a correction; each question has two answers over
three passages of 500 characters.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from steerable_llm.logs import LoggedAnswer, Passage, write_answers
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.importers import import_files

WORDS = "shop opens tea costs euros river bank page answer document question city".split()


def logged(number: int, prefix: str = "a") -> LoggedAnswer:
    source = random.Random(number // 2)  # two answers share a prompt
    texts = [" ".join(source.choices(WORDS, k=80)) for _ in range(3)]
    bad = number % 8 == 1
    return LoggedAnswer.model_validate(
        {
            "id": f"{prefix}{number}",
            "question": f"question {number // 2}?",
            "passages": [Passage(id=f"d{source.randrange(10_000)}", text=t) for t in texts],
            "messages": [{"role": "user", "content": "\n".join(texts)}],
            "answer": " ".join(random.Random(number).choices(WORDS, k=20)),
            "verdict": "bad" if bad else "good" if number % 8 == 0 else None,
            "reason": "not in documents" if bad else None,
            "correction": "at ten" if number % 16 == 1 else None,
            "step": "answer",
            "model": "benchmark",
        }
    )


def run(url: str, rows: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def measure(name: str, work: Callable[[], int]) -> None:
        start = time.perf_counter()
        number = work()
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rate = number / seconds
        found.append({"what": name, "rows": number, "rows_per_s": rate, "peak_mib": memory})

    def answers(prefix: str) -> Iterator[LoggedAnswer]:
        return (logged(number, prefix) for number in range(rows))

    with AnswerLog(url) as log, tempfile.TemporaryDirectory() as folder:
        measure("make answers (no log)", lambda: sum(1 for _ in answers("a")))
        measure("add", lambda: log.add(answers("a")))
        file = write_answers(Path(folder) / "answers.jsonl", answers("b"))
        measure("import", lambda: import_files(log, file, "answers").added)
        measure("import again", lambda: import_files(log, file, "answers").lines_before)
        measure("read all", lambda: sum(1 for _ in log.answers()))
        measure("read the bad", lambda: sum(1 for _ in log.answers(reason="not in documents")))
        measure("pair", lambda: len(log.pairs(reason="not in documents")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--url", help="an empty database; else a SQLite file that is removed")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(args.url or f"sqlite:///{folder}/answers.db", args.rows)
    if args.json:
        json.dump(found, sys.stdout, indent=2)
        return
    table = Table(title=f"{args.url or 'SQLite'}, {args.rows} answers, added twice")
    for column in ("", "rows", "rows/s", "peak MiB"):
        table.add_column(column, justify="right" if column else "left")
    for row in found:
        table.add_row(
            row["what"],
            f"{row['rows']:,}",
            f"{row['rows_per_s']:,.0f}",
            f"{row['peak_mib']:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
