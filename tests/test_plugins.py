"""What other packages add is found by its group, and a broken one harms nobody."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from plugin import install

from steerable_llm.plugins import load_plugins

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
