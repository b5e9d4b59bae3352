"""How many answers a second the answer log imports, filters and pairs, and in how much memory.

    python benchmarks/log.py --rows 1000000
    python benchmarks/log.py --url postgresql://me@host/empty_database

Every eighth answer is bad, one in a thousand of these rude, and half of them have a correction;
each question has two answers over three passages of about 500 characters. Rates are given by the
clock and by the processor time of this process, which a busy machine does not change. The peak is
that of the process so far, so what streams must not raise it, however many rows there are.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import LoggedAnswer, Passage, write_answers
from steerable_llm.logs.importers import import_files
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Table, numeric

WORDS = "shop opens tea costs euros river bank page answer document question city".split()
START = datetime(2026, 1, 1, tzinfo=UTC)
_draw = random.Random(0)
PASSAGES = [
    Passage(id=f"d{number}", text=" ".join(_draw.choices(WORDS, k=80))) for number in range(5000)
]


def logged(number: int, prefix: str = "a") -> LoggedAnswer:
    question = number // 2  # two answers share a prompt
    passages = tuple(PASSAGES[question * step % len(PASSAGES)] for step in (1, 7, 31))
    shown = "\n".join(passage.text for passage in passages)
    bad = number % 8 == 1
    rude = number % 8000 == 1
    return LoggedAnswer.model_validate(
        {
            "id": f"{prefix}{number}",
            "question": f"question {question}?",
            "passages": passages,
            "messages": [{"role": "user", "content": f"{shown}\n\nQuestion {question}?"}],
            "answer": f"As far as I know, it is answer {number}.",
            "verdict": "bad" if bad else "good" if number % 8 == 0 else None,
            "reason": "rude" if rude else "not in documents" if bad else None,
            "correction": "at ten" if number % 16 == 1 else None,
            "step": "condense" if number % 1000 == 5 else "answer",
            "model": "rare" if number % 1000 == 7 else "usual",
            "time": START + timedelta(seconds=number),
        }
    )


def run(url: str, rows: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def measure(name: str, work: Callable[[], int]) -> None:
        start, busy = time.perf_counter(), time.process_time()
        number = work()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        result = {
            "what": name,
            "rows": number,
            "seconds": seconds,
            "rows_per_s": number / seconds,
            "rows_per_cpu_s": number / busy if busy else None,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        found.append(result)
        print(json.dumps(result), file=sys.stderr, flush=True)  # a million takes a while

    def read(**filters: Any) -> Callable[[], int]:
        return lambda: sum(1 for _ in log.answers(**filters))

    def write() -> int:
        write_answers(file, (logged(number) for number in range(rows)))
        return rows

    new = [logged(number, "b") for number in range(min(rows, 5000))]
    last_hour = START + timedelta(seconds=rows - 3600)
    with AnswerLog(url) as log, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answers.jsonl"
        measure("write the file (no log)", write)
        measure("import", lambda: import_files(log, file, "answers").added)
        measure("import again", lambda: import_files(log, file, "answers").lines_before)
        measure("add", lambda: log.add(new))
        measure("add one by one", lambda: sum(log.add([logged(n, "c")]) for n in range(200)))
        measure("filter: rude", read(reason="rude"))
        measure("filter: one step", read(step="condense"))
        measure("filter: one model", read(model="rare"))
        measure("filter: the last hour", read(since=last_hour))
        measure("statistics", lambda: log.statistics().answers)
        measure("read all", read())
        measure("pair: rude", lambda: len(log.pairs(reason="rude")))
        measure("pair: not in documents", lambda: len(log.pairs(reason="not in documents")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--url", help="an empty database; else a SQLite file that is removed")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(args.url or f"sqlite:///{folder}/answers.db", args.rows)
    if args.json:
        json.dump(found, sys.stdout, indent=2)
        return
    head = ["", *numeric("rows", "seconds", "rows/s", "rows/s of processor", "peak MiB")]
    cells = [
        [
            row["what"],
            f"{row['rows']:,}",
            f"{row['seconds']:,.2f}",
            f"{row['rows_per_s']:,.0f}",
            f"{row['rows_per_cpu_s'] or 0:,.0f}",
            f"{row['peak_mib']:.0f}",
        ]
        for row in found
    ]
    title = f"{args.url or 'SQLite'}, {args.rows:,} answers"
    Console().print(Page(title, [Table(head, cells)]))


if __name__ == "__main__":
    main()
