"""The rows of a benchmark: from the Hugging Face Hub, from a file, or the bundled sample."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from pydantic import ValidationError

from steerable_llm.chat.images import ImagePart
from steerable_llm.errors import InvalidInputError, first_problem, from_extra
from steerable_llm.evaluation.benchmarks.benchmark import Benchmark
from steerable_llm.evaluation.benchmarks.folders import FOLDERS
from steerable_llm.evaluation.benchmarks.rows import ROWS
from steerable_llm.files import is_file, read_json_lines
from steerable_llm.json_records import parsed

Rows = list[dict[str, Any]]
SAMPLE = "sample"
"""In place of data: the few rows that this package brings, to try a benchmark offline."""


@dataclass(frozen=True)
class Data:
    """What a benchmark asks, and from where it comes.

    Attributes:
        rows: By their place in the data; those that a limit left out are missing. The column
            `examples` holds a row's worked examples.
        source: The Hub id with configuration and split, or the file.
        digest: SHA-256 over the rows that are asked.
        total: How many rows there were before a limit.
    """

    rows: Mapping[int, Mapping[str, Any]]
    source: str
    digest: str
    total: int


def load_data(
    benchmark: Benchmark,
    data: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    shots: int = 0,
    images: str | Path | None = None,
) -> Data:
    """Read and check the rows of a benchmark.

    Args:
        benchmark: Says which columns there must be.
        data: A file (.jsonl, .json, .csv or .parquet), a folder with one such file per split, a
            Hub id (`ID`, `ID:CONFIG` or `ID:CONFIG:SPLIT`), or "sample"; None for the
            benchmark's own data set on the Hub. Where a file has a column `split`, it says
            which rows are worked examples.
        limit: Ask so many rows, drawn with the seed; None asks all.
        seed: Of that draw.
        groups: Only rows of these groups, such as subjects.
        shots: How many worked examples each row gets; with 0, none are read.
        images: The folder of images that rows name by a path; default is that of the data.

    Raises:
        InvalidInputError: There is no such data, columns are missing, a value is of the wrong
            kind, there are too few worked examples, or nothing is left to ask.
        MissingExtraError: The Hub or a parquet file is wanted, and `datasets` is not installed.
    """
    if limit is not None and limit < 1:
        raise InvalidInputError(f"the limit is {limit}: ask at least 1 row, or leave it out")
    source, split, read = _open(benchmark, data, groups)
    raw_examples = read(benchmark.examples) if shots and benchmark.examples else []
    folder = Path(images) if images else Path(data or "").parent
    rows = dict(enumerate(_checked(benchmark, read(split), source, folder)))
    if groups:
        rows = _of_groups(benchmark, rows, groups, source)
    total = len(rows)
    if limit is not None and limit < total:
        # In the order of the data, whatever the order of the draw.
        kept = sorted(Random(seed).sample(sorted(rows), limit))
        rows = {place: rows[place] for place in kept}
    lines = (
        json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=_name_of)
        for row in rows.values()
    )
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if shots:
        examples = _checked(benchmark, raw_examples, source, folder) if raw_examples else []
        rows = {i: {**row, "examples": _shown(benchmark, row, examples, shots)}
                for i, row in rows.items()}  # fmt: skip
    return Data(rows, source, digest, total)


def _name_of(image: ImagePart) -> str:
    """Name an image by its bytes, wherever its file lies; one of the web by its address."""
    where = image.where
    if image.data is None and not image.is_public and is_file(where):
        return ImagePart(Path(where).read_bytes()).name
    return image.name


def _shown(benchmark: Benchmark, row: dict[str, Any], examples: Rows, shots: int) -> Rows:
    """The worked examples of a row's own group."""
    group = benchmark.group or ""
    mine = [example for example in examples if example.get(group) == row.get(group)]
    if len(mine) < shots:
        raise InvalidInputError(
            f"{benchmark.name} wants {shots} worked examples of {row.get(group)!r} and finds "
            f"{len(mine)}: give data with a split {benchmark.examples!r}, or ask with fewer shots"
        )
    return mine[:shots]


def _open(
    benchmark: Benchmark, data: str | None, groups: Sequence[str] | None = None
) -> tuple[str, str, Callable[[str], Rows]]:
    """Return what the data is called, the split that is asked, and what reads a split."""
    split = benchmark.split
    path = Path(data or "")
    if data == SAMPLE:
        path = Path(__file__).parent / "samples" / f"{benchmark.sample}.jsonl"
        source = f"bundled sample of {benchmark.name}"
    else:
        source = str(path)
    own_reader = FOLDERS.get(benchmark.name)
    if data and path.is_dir() and own_reader is not None:
        return source, split, lambda _: own_reader(path)
    if data and path.is_dir():
        return source, split, lambda wanted: read_file(_split_file(path, wanted))
    if data and (path.exists() or path.suffix in READERS):
        rows = read_file(path)
        # Without a column that says so, all rows are of the split that is asked.
        return source, split, lambda wanted: [x for x in rows if x.get("split", split) == wanted]
    own, config = benchmark.config.get("dataset_path", ""), benchmark.config.get("dataset_name")
    asked, _, rest = (data or own).partition(":")
    named, _, part = rest.partition(":")
    config = named or (config if asked == own else None)
    source = ":".join(word for word in (asked, config, part or split) if word)
    if not asked:
        raise InvalidInputError(f"{benchmark.name} has no data set on the Hub: give a folder")
    if own_reader is not None:
        return source, split, lambda _: own_reader(_snapshot(asked))
    if benchmark.configs and not config:
        return source, split, lambda wanted: _of_configs(asked, groups, wanted)
    return source, part or split, lambda wanted: _from_hub(asked, config, wanted)


def _of_configs(path: str, groups: Sequence[str] | None, split: str) -> Rows:
    """The rows of a data set with a configuration for every group."""
    with from_extra("benchmarks", "data sets of the Hub need datasets"):
        import datasets
    try:
        names = groups or datasets.get_dataset_config_names(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidInputError(
            f"cannot read what {path!r} holds on the Hub ({' '.join(str(error).split())[:300]}): "
            f"give a file or '{SAMPLE}'"
        ) from error
    return [row for name in names for row in _from_hub(path, name, split)]


def _snapshot(path: str) -> Path:
    """The folder of a data set's own files, for those that `datasets` cannot read."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.zip", "images/*"]
    try:
        return Path(snapshot_download(path, repo_type="dataset", allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise InvalidInputError(
            f"cannot load {path!r} from the Hub ({' '.join(str(error).split())[:300]}): check the "
            f"name, or give a file or '{SAMPLE}'"
        ) from error


def _split_file(folder: Path, split: str) -> Path:
    """The file of a split: `test.jsonl`, or `test-00000-of-00001.parquet` as the Hub has it."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in READERS and path.stem.split("-")[0] == split
    ]
    if len(found) != 1:
        raise InvalidInputError(
            f"{folder} has {len(found)} files of the split {split!r}: name exactly one "
            f"{split}.jsonl (or {', '.join(READERS)})"
        )
    return found[0]


def _from_hub(path: str, config: str | None, split: str) -> Rows:
    with from_extra("benchmarks", "data sets of the Hub need datasets"):
        import datasets
    try:
        found = datasets.load_dataset(path, config, split=split)
    # Everything that a network and other people's data can do wrong ends up here.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise InvalidInputError(
            f"cannot load {path!r} (configuration {config}, split {split}) from the Hub "
            f"({type(error).__name__}: {' '.join(str(error).split())[:300]}): check the name, log "
            f"in with `hf auth login` if access is restricted, or give a file or '{SAMPLE}'"
        ) from error
    for name, kind in (getattr(found, "features", None) or {}).items():
        if isinstance(kind, datasets.Image):  # thousands of images are kept as files are
            found = found.cast_column(name, datasets.Image(decode=False))
    return [dict(row) for row in found]


def _checked(benchmark: Benchmark, raw: Rows, source: str, folder: Path) -> Rows:
    """The rows as the benchmark reads them."""
    if not raw:
        raise InvalidInputError(
            f"{source} has no row of the split {benchmark.split!r}: give at least one"
        )
    schema = ROWS.get(benchmark.name)
    if schema is None:
        return raw
    needed = [name for name, column in schema.model_fields.items() if column.is_required()]
    checked = []
    also: Mapping[str, str] = getattr(schema, "also", {})
    for number, row in enumerate(raw):
        row |= {name: row[other] for name, other in also.items() if name not in row if other in row}
        missing = [name for name in needed if name not in row]
        if missing:
            raise InvalidInputError(
                f"{source}, row {number}: {benchmark.name} needs the columns {', '.join(needed)}; "
                f"missing: {', '.join(missing)}; present: {', '.join(map(str, row)) or 'none'}"
            )
        try:
            read = schema.model_validate({"place": number, **row})
            images = {name: _placed(getattr(read, name), folder) for name in benchmark.images}
            checked.append({**read.model_dump(exclude=set(images)), **images})
        except ValidationError as error:
            raise InvalidInputError(f"{source}, row {number}: {first_problem(error)}") from None
    return checked


def _placed(image: ImagePart | None, folder: Path) -> ImagePart | None:
    """Return an image whose path starts in a folder."""
    is_path = image is not None and image.data is None and not image.is_public
    return replace(image, folder=folder) if image is not None and is_path else image


def _of_groups(
    benchmark: Benchmark, rows: Mapping[int, dict[str, Any]], groups: Sequence[str], source: str
) -> dict[int, dict[str, Any]]:
    column = benchmark.group
    if column is None:
        raise InvalidInputError(f"{benchmark.name} has no groups to choose from: leave them out")
    known = dict.fromkeys(str(row[column]) for row in rows.values())
    for group in groups:
        if group not in known:
            raise InvalidInputError(
                f"{source} has no {column} {group!r}; it has {', '.join(known)}"
            )
    return {place: row for place, row in rows.items() if row[column] in groups}


def read_file(path: Path) -> Rows:
    """Return the rows of a file, read by its suffix.

    Raises:
        InvalidInputError: There is no such file, or it cannot be read.
        MissingExtraError: It is a parquet file, and pyarrow is not installed.
    """
    if not path.is_file():
        raise InvalidInputError(
            f"there is no file {path}: give a file ({', '.join(READERS)}), a folder, a Hub id, "
            f"or '{SAMPLE}'"
        )
    if path.suffix not in READERS:
        raise InvalidInputError(f"cannot read {path.name!r}: give one of {', '.join(READERS)}")
    try:
        rows = READERS[path.suffix](path)
    except InvalidInputError:  # says by itself which file it is
        raise
    except (ValueError, csv.Error) as error:
        raise InvalidInputError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise InvalidInputError(f"cannot read {path}: every row must be an object with columns")
    return rows


def _jsonl(path: Path) -> Rows:
    return list(read_json_lines(path, dict, "file", "a row is an object with columns"))


def _csv(path: Path) -> Rows:
    """A cell cannot hold a list, so one that reads as a JSON list or object is taken as such."""
    # Spreadsheets put a mark before the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [{name: _cell(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _cell(value: str) -> Any:
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return parsed(value)
        except ValueError:
            return value
    return value


def _parquet(path: Path) -> Rows:
    with from_extra("benchmarks", "parquet files need pyarrow"):
        from pyarrow import parquet
    rows: Rows = parquet.read_table(path).to_pylist()
    return rows


#: How each kind of file is read.
READERS: Mapping[str, Callable[[Path], Rows]] = {
    ".jsonl": _jsonl,
    ".json": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
