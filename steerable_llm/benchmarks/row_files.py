"""Reading rows from a file of the user's, by its suffix."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steerable_llm.errors import InvalidInputError, MissingExtraError
from steerable_llm.files import read_text

Raw = list[dict[str, Any]]


def read_file(path: Path) -> Raw:
    """The rows of a file.

    Raises:
        InvalidInputError: There is no such file, or it cannot be read.
        MissingExtraError: It is a parquet file, and pyarrow is not installed.
    """
    if not path.is_file():
        raise InvalidInputError(
            f"there is no file {path}: give a file ({', '.join(READERS)}), a folder, a Hub id, "
            "or 'sample'"
        )
    if path.suffix not in READERS:
        raise InvalidInputError(f"cannot read {path.name!r}: give one of {', '.join(READERS)}")
    try:
        rows = READERS[path.suffix](path)
    except InvalidInputError:  # says by itself which file it is
        raise
    # A json.JSONDecodeError is a ValueError; brackets by the thousand are too deep for its parser.
    except (ValueError, RecursionError, csv.Error) as error:
        raise InvalidInputError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise InvalidInputError(f"cannot read {path}: every row must be an object with columns")
    return rows


def _jsonl(path: Path) -> Raw:
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON ({error.msg})") from None
    return rows


def _json(path: Path) -> Raw:
    content = json.loads(read_text(path))
    if not isinstance(content, list):
        raise ValueError("expected a JSON list of objects")
    return content


def _csv(path: Path) -> Raw:
    """A cell cannot hold a list, so one that reads as a JSON list or object is taken as such."""
    # Spreadsheets put a mark before the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [{name: _cell(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _cell(value: str) -> Any:
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            return value
    return value


def _parquet(path: Path) -> Raw:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            "parquet files need pyarrow: pip install 'steerable-llm[benchmarks]'"
        ) from error
    rows: Raw = parquet.read_table(path).to_pylist()
    return rows


#: How each kind of file is read.
READERS: Mapping[str, Callable[[Path], Raw]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
