"""Benchmarks with images from a Hub, by their ids: laid out as their authors' data sets are."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import datasets
import pytest
from hub_server import Hub, Repository, running_hub
from PIL import Image

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

SCRIPT = """
import json, sys
from steerable_llm.chat.images import ImagePart
from steerable_llm.evaluation.benchmarks.benchmark import find_benchmark
from steerable_llm.evaluation.benchmarks.data import load_data

def shown(value):
    return value.data.hex() if isinstance(value, ImagePart) else value

told = {}
for name, wanted in json.loads(sys.argv[1]):
    found = load_data(find_benchmark(name), **wanted)
    rows = [{key: shown(value) for key, value in row.items()} for row in found.rows.values()]
    told[found.source] = rows
print(json.dumps(told))
"""
RED, BLUE, GREEN = "red", "blue", "green"


def picture(colour: str) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(written, format="PNG")
    return written.getvalue()


def parquet(rows: list[dict[str, Any]], images: tuple[str, ...]) -> bytes:
    """Rows as `datasets` pushes them: images as bytes within the columns."""
    table = datasets.Dataset.from_list(
        [
            {k: {"bytes": v, "path": None} if isinstance(v, bytes) else v for k, v in row.items()}
            for row in rows
        ]
    )
    for name in images:
        table = table.cast_column(name, datasets.Image())
    written = io.BytesIO()
    table.to_parquet(written)
    return written.getvalue()


def card(configurations: dict[str, tuple[str, str]]) -> bytes:
    lines = ["---", "configs:"]
    for name, (split, path) in configurations.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [f"  - split: {split}", f"    path: {path}"]
    return "\n".join([*lines, "---", ""]).encode()


def pope_rows() -> list[dict[str, Any]]:
    return [
        {"question_id": i, "question": f"Is there a {thing}?", "answer": answer, "image": image,
         "category": "popular", "image_source": f"COCO_{i}"}
        for i, (thing, answer, image) in enumerate(
            [("dog", "yes", picture(RED)), ("cat", "no", picture(BLUE))]
        )
    ]  # fmt: skip


def mmmu_rows(subject: str) -> list[dict[str, Any]]:
    more = {f"image_{n}": None for n in range(2, 8)}
    return [
        {"id": f"validation_{subject}_1", "question": "<image 1> What?", "options": "['a', 'b']",
         "answer": "B", "question_type": "multiple-choice", "image_1": picture(GREEN), **more}
    ]  # fmt: skip


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The four data sets as the Hub has them, of one row or two."""
    spa_vl = {"image": picture(RED), "question": "What?", "chosen": "Red.", "rejected": "Blue."}
    images = tuple(f"image_{n}" for n in range(1, 8))
    archive = io.BytesIO()
    with ZipFile(archive, "w") as packed:
        packed.writestr("test_data/images/a.jpg", picture(BLUE))
    template = [
        {"question_type": "attribute", "question_topic": "colour", "question": "Which colour?",
         "image_id": "1", "image_src": "https://pictures.example.com/a.jpg",
         "image_content": ["sky"], "gt_answer": "Blue.", "model_answer": ""}
    ]  # fmt: skip
    files = {
        "lmms-lab/POPE": {
            "README.md": card({"default": ("test", "data/test-*")}),
            "data/test-00000-of-00001.parquet": parquet(pope_rows(), ("image",)),
        },
        "MMMU/MMMU": {
            "README.md": card(
                {name: ("validation", f"{name}/validation-*") for name in ("Art", "Music")}
            ),
            **{
                f"{name}/validation-00000-of-00001.parquet": parquet(mmmu_rows(name), images)
                for name in ("Art", "Music")
            },
        },
        "sqrti/SPA-VL": {
            "README.md": card({"validation": ("validation", "val/validation-*")}),
            "val/validation-00000-of-00001.parquet": parquet([spa_vl], ("image",)),
        },
        "Shengcao1006/MMHal-Bench": {
            "README.md": b"",
            "mmhal-bench.py": b"raise SystemExit('a script of the data set was run')",
            "response_template.json": json.dumps(template).encode(),
            "test_data.zip": archive.getvalue(),
        },
    }
    with running_hub() as hub:
        for name, content in files.items():
            commit = hashlib.sha1(name.encode()).hexdigest()
            hub.repositories[f"datasets/{name}"] = Repository(False, [(commit, content)])
        yield hub


def test_benchmarks_with_images_are_read_from_the_hub_by_their_ids(
    hub: Hub, tmp_path: Path
) -> None:
    wanted = [
        ("pope", {}),
        ("mmmu", {}),
        ("mmmu", {"data": "MMMU/MMMU:Music"}),
        ("spa_vl", {}),
        ("mmhal", {}),
    ]
    environment = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(wanted)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    read = {
        source: [bytes.fromhex(row.get("image") or row["image_1"]) for row in rows]
        for source, rows in told.items()
    }
    assert read == {
        "lmms-lab/POPE:test": [picture(RED), picture(BLUE)],
        "MMMU/MMMU:validation": [picture(GREEN), picture(GREEN)],
        "MMMU/MMMU:Music:validation": [picture(GREEN)],
        "sqrti/SPA-VL:validation:validation": [picture(RED)],
        "Shengcao1006/MMHal-Bench:test": [picture(BLUE)],
    }
    assert [row["label"] for row in told["lmms-lab/POPE:test"]] == ["yes", "no"]
    assert [row["subject"] for row in told["MMMU/MMMU:validation"]] == ["Art", "Music"]
