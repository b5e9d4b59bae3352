"""A tiny installed package that adds something to this one under an entry point."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, group: str, entries: dict[str, str], code: str
) -> None:
    """Put a distribution with one module, `tiny_plugin`, into a folder on the path.

    Args:
        folder: An empty one.
        monkeypatch: Takes it off the path again.
        group: The group of entry points.
        entries: Name to object, as in ``{"mine": "tiny_plugin:importer"}``.
        code: The module.
    """
    info = folder / "tiny_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.0\n")
    lines = "".join(f"{name} = {target}\n" for name, target in entries.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    (folder / "tiny_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "tiny_plugin", raising=False)
