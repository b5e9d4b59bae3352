"""What other packages add is found by its group, and a broken one harms nobody."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from plugin import install

from steerable_llm import Pairs, PreferencePair, SteeringVector, build_vector
from steerable_llm.errors import InvalidInputError
from steerable_llm.methods import METHODS
from steerable_llm.plugins import load_plugins
from steerable_llm.runtime.interchange import export_vector, import_vector
from steerable_llm.vector.interchange import FORMATS

GROUP = "steerable_llm.tests"


def test_what_a_package_registers_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_plugins(GROUP, dict) == {}
    install(tmp_path, monkeypatch, GROUP, {"mine": "tiny_plugin:THING"}, "THING = {'a': 1}")
    assert load_plugins(GROUP, dict) == {"mine": {"a": 1}}
    assert load_plugins("steerable_llm.others", dict) == {}


def test_a_broken_plugin_is_one_warning_line_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entries = {
        "good": "tiny_plugin:THING",
        "gone": "tiny_plugin:NOTHING",
        "missing": "not_there:THING",
        "other": "tiny_plugin:NUMBER",
    }
    install(tmp_path, monkeypatch, GROUP, entries, "THING = {}\nNUMBER = 1")
    with caplog.at_level(logging.WARNING):
        assert load_plugins(GROUP, dict) == load_plugins(GROUP, dict) == {"good": {}}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3  # each once, however often they are asked for
    assert all("\n" not in line and "mend or uninstall it" in line for line in said)
    assert (
        "other = tiny_plugin:NUMBER cannot be loaded (TypeError: it is of type int, not dict)"
        in "".join(said)
    )


MODULE = """
import json
from pathlib import Path

import torch

from steerable_llm.methods.caa import CAA, CaaConfig, extract_caa
from steerable_llm.methods.method import Method
from steerable_llm.vector.interchange.format import AdditiveVector, Format


class TwiceConfig(CaaConfig):
    times: float = 2.0


def extract_twice(llm, pairs, config, progress=None):
    found = extract_caa(llm, pairs, config, progress)
    for direction in found.directions.values():
        direction *= config.times
    return found


TWICE = Method(TwiceConfig, extract_twice, application=CAA.application, grid=CAA.grid)


def write(vector):
    return json.dumps({"plain": {i: v.tolist() for i, v in vector.folded.items()}}).encode()


def read(path, places):
    stored = json.loads(Path(path).read_text())["plain"]
    return AdditiveVector({int(i): torch.tensor(v) for i, v in stored.items()})


PLAIN = Format(
    ".plain", write, read, lambda path, start: path.suffix == ".plain", use="-", length="-"
)
"""
PAIRS = Pairs(PreferencePair(f"Is {n} big?", good="Yes.", bad="No, no.") for n in range(3))


def test_a_package_adds_a_method(
    tiny_llm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"twice": "tiny_plugin:TWICE", "caa": "tiny_plugin:TWICE"}
    install(tmp_path, monkeypatch, "steerable_llm.methods", entries, MODULE)
    assert list(METHODS)[-1] == "twice"
    once = build_vector(tiny_llm, PAIRS, method="caa", progress=False)
    twice = build_vector(tiny_llm, PAIRS, method="twice", times=2, progress=False)
    assert all((twice.directions[i] == 2 * once.directions[i]).all() for i in once.layers)
    loaded = SteeringVector.load(twice.save(tmp_path / "v.safetensors"), tiny_llm)
    # No package takes the place of what is here.
    assert METHODS["caa"].config.__name__ == "CaaConfig"
    assert list(METHODS).count("caa") == 1
    assert (loaded.provenance.method, loaded.provenance.config["times"]) == ("twice", 2.0)


def test_a_package_adds_a_file_format(
    tiny_llm: Any, tiny_vector: SteeringVector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"plain": "tiny_plugin:PLAIN"}
    install(tmp_path, monkeypatch, "steerable_llm.formats", entries, MODULE)
    assert "plain" in FORMATS
    path = export_vector(tiny_vector, tmp_path / "v.plain", "plain", strength=1.0).path
    assert "plain" in json.loads(path.read_text())
    back = import_vector(path, tiny_llm)  # recognised by its suffix
    assert back.provenance.imported is not None
    assert back.provenance.imported.format == "plain"
    assert back.layers == tiny_vector.layers


def test_a_broken_method_is_an_unknown_one(
    tiny_llm: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    entries = {"broken": "tiny_plugin:BROKEN"}
    install(tmp_path, monkeypatch, "steerable_llm.methods", entries, "BROKEN = 1 / 0")
    with pytest.raises(InvalidInputError, match="unknown method 'broken'"):
        build_vector(tiny_llm, PAIRS, method="broken", progress=False)
    [line] = [record.getMessage() for record in caplog.records]
    assert "ZeroDivisionError" in line
    assert build_vector(tiny_llm, PAIRS, method="caa", progress=False).layers
