"""The comparison with other model classes runs, and the page on migrating says what it finds."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from steerable_llm import SteerableHFLLM

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "apps" / "migrating"
PAGE = ROOT / "docs" / "migrating.md"
SIDES = ["langchain_side", "llama_index_side"]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A function that imports a file of the application by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in ("compare", "observing", *SIDES):
        sys.modules.pop(name, None)


def table_of(name: str, page: str | None = None) -> list[tuple[str, str, str]]:
    """The rows of the page's table for one of the classes."""
    text = PAGE.read_text(encoding="utf-8") if page is None else page
    table = text.partition(f"<!-- {name} -->")[2].partition(f"<!-- end of {name} -->")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return [(what, theirs, ours) for what, theirs, ours in rows[2:]]


@pytest.mark.parametrize("name", SIDES)
def test_the_page_says_what_this_package_does(load: object, name: str) -> None:
    side, observing = load(name), load("observing")  # type: ignore[operator]
    llm = SteerableHFLLM.demo()
    ours = side.make_ours(llm)
    found = {
        what: observing.attempt(probe, ours)
        for what, probe in side.probes(llm, observing.Watched(llm.model)).items()
    }
    assert {what: said for what, _, said in table_of(side.THEIRS)} == found


@pytest.mark.slow
# The others' warnings, and the threads that their failed streams leave, are theirs.
@pytest.mark.filterwarnings("ignore")
def test_the_page_says_what_the_other_classes_do(
    load: object,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    subtests: pytest.Subtests,
) -> None:
    copy = tmp_path / "migrating.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    compare: ModuleType = load("compare")  # type: ignore[operator]
    assert compare.main(["--write", str(copy)]) in (0, 1)
    said, page = capsys.readouterr().out, copy.read_text(encoding="utf-8")
    for name in SIDES:
        with subtests.test(name):
            side = load(name)  # type: ignore[operator]
            if not compare.is_installed(side.NEEDS[0]):
                assert (
                    f"{side.THEIRS} is not compared: it needs pip install {side.NEEDS[1]}" in said
                )
                pytest.skip(
                    f"{side.NEEDS[1]} is not installed: langchain-huggingface wants a "
                    "huggingface-hub below 2, which cannot be beside the one of constraints.txt; "
                    "in an environment of its own, pip install 'steerable-llm[peers]' runs this"
                )
            assert f"{side.THEIRS} answers" in said
            assert table_of(side.THEIRS, page) == table_of(side.THEIRS)


def test_a_package_that_is_missing_is_named_with_how_to_get_it(
    load: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compare: ModuleType = load("compare")  # type: ignore[operator]
    monkeypatch.setattr(compare, "is_installed", lambda _: False)
    assert compare.main([]) == 1
    said = capsys.readouterr().out
    assert "pip install langchain-huggingface" in said
    assert "pip install llama-index-llms-huggingface" in said


def test_what_is_not_installed_is_told_from_what_is(load: object) -> None:
    compare: ModuleType = load("compare")  # type: ignore[operator]
    assert compare.is_installed("llama_index.core")
    assert not compare.is_installed("no_such_package.at_all")


def test_a_page_without_a_place_for_the_table_is_left_alone(load: object, tmp_path: Path) -> None:
    compare: ModuleType = load("compare")  # type: ignore[operator]
    page = tmp_path / "page.md"
    page.write_text("Nothing here.\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="no place for the table of HuggingFaceLLM"):
        compare.write_table(page, "HuggingFaceLLM", "| a |")
    assert page.read_text(encoding="utf-8") == "Nothing here.\n"
