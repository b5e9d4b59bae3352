"""The command `steerable`, run in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from steerable_llm.cli.command import main


class Steerable:
    """Runs the command in this process, as `steerable ARGUMENTS` would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> str:
        self._monkeypatch.setattr(sys, "argv", ["steerable", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = self._capsys.readouterr()
        self.stderr = captured.err
        assert (ended.value.code or 0) == code, captured.err
        return captured.out

    def json(self, *arguments: object) -> Any:
        return json.loads(self(*arguments, "--json"))

    def error(self, *arguments: object) -> str:
        """What a failing command says; it must be one line, and nothing on stdout."""
        assert self(*arguments, code=2) == ""
        assert self.stderr.startswith("steerable: ")
        assert self.stderr.count("\n") == 1
        return self.stderr


@pytest.fixture
def steerable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Steerable:
    monkeypatch.chdir(tmp_path)
    return Steerable(monkeypatch, capsys)
