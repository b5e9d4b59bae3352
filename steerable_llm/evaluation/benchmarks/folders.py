"""Data sets that are a folder of files of their own, which no general reader knows."""

from __future__ import annotations

import json
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.benchmarks.chair import objects_in
from steerable_llm.files import read_text

Rows = list[dict[str, Any]]


def mmhal_rows(folder: Path) -> Rows:
    """Read MMHal-Bench: its JSON, and images from a folder or an archive beside it.

    The addresses that the JSON has are kept for images that lie nowhere; they are fetched only
    from hosts that the model was loaded with.

    Raises:
        InvalidInputError: There is no such file, or it is none.
    """
    rows: Rows = _json(folder / "response_template.json")
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise InvalidInputError(
            f"{folder / 'response_template.json'} holds no list of questions: give the data set's "
            "own"
        )
    archives = [_archive(path) for path in sorted(folder.rglob("*.zip"))]
    files = {path.name: path for path in folder.rglob("*.*") if path.suffix != ".zip"}
    for row in rows:
        name = str(row.get("image_src", "")).rpartition("/")[2]
        packed = next((archive[name] for archive in archives if name in archive), None)
        if name in files:
            row["image"] = str(files[name].resolve())
        elif packed is not None:
            row["image"] = packed()
    return rows


def coco_rows(folder: Path) -> Rows:
    """Read COCO's annotations as CHAIR needs them: which objects are on each image.

    An object is on an image where its segmentation says so, or a caption of a person names it.
    `synonyms.txt` of CHAIR's authors, one line an object, tells the words for it; without it an
    object is known by its name alone.

    Raises:
        InvalidInputError: A file is missing, or is none of COCO.
    """
    names, captions = (_the_one(folder, f"{kind}_*.json") for kind in ("instances", "captions"))
    instances, written = _json(names), _json(captions)
    try:
        kinds = {kind["id"]: str(kind["name"]) for kind in instances["categories"]}
        files = {image["id"]: str(image["file_name"]) for image in instances["images"]}
        found: dict[int, set[str]] = defaultdict(set)
        for each in instances["annotations"]:
            found[each["image_id"]].add(kinds[each["category_id"]])
        synonyms = _synonyms(folder / "synonyms.txt", kinds.values())
        for each in written["annotations"]:
            found[each["image_id"]] |= set(objects_in(each["caption"], synonyms))
    except (KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{folder} holds no annotations of COCO ({error} is missing): give instances_*.json "
            "and captions_*.json as COCO has them"
        ) from error
    places = {path.name: path for path in folder.rglob("*.jpg")}
    return [
        {
            "image": str(places[file].resolve() if file in places else file),
            "objects": sorted(found[number]),
            "synonyms": synonyms,
        }
        for number, file in files.items()
    ]


def _synonyms(path: Path, names: Iterable[str]) -> str:
    if not path.is_file():
        return "\n".join(names)
    text = read_text(path)
    known = {line.partition(",")[0].strip() for line in text.splitlines()}
    for name in names:
        if name not in known:
            raise InvalidInputError(f"{path} has no line for {name!r}: give one that starts so")
    return text


def _the_one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.rglob(pattern))
    if len(found) != 1:
        raise InvalidInputError(
            f"{folder} has {len(found)} files {pattern}: keep exactly one there"
        )
    return found[0]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {path} ({error}): give the data set's own") from error


def _archive(path: Path) -> Mapping[str, Callable[[], bytes]]:
    """Return what an archive holds, by the names of files without their folders."""
    try:
        archive = ZipFile(path)
    except BadZipFile as error:
        raise InvalidInputError(f"cannot read {path} ({error}): fetch it again") from error

    def read(inside: str) -> bytes:
        try:
            return archive.read(inside)
        # Damaged, packed in a way that is not known, or locked by a password.
        except (BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise InvalidInputError(
                f"cannot read {inside} in {path} ({error}): fetch it again"
            ) from error

    return {re.sub(r".*/", "", inside): partial(read, inside) for inside in archive.namelist()}


FOLDERS: Mapping[str, Callable[[Path], Rows]] = {"mmhal": mmhal_rows, "chair": coco_rows}
"""By the task's name."""
