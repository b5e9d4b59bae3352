"""The documentation: its code runs, its reference is current, and it names what there is."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import steerable_llm

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "steerable_llm"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PRINTED = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^(<!-- runnable -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def script(name: str) -> Any:
    """A script of the documentation, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *, runnable: bool) -> list[str]:
    """The page's Python code, in order."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [code for mark, code in found if bool(mark) == runnable]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, runnable=True)], ids=page_name
)
# A reader sees this note on the completeness of the attribution: the bundled model's is no better
# with the paper's defaults, of which docs/attribution.md tells. Any other warning fails the page.
@pytest.mark.filterwarnings("ignore:the token scores miss:UserWarning")
def test_the_code_that_is_marked_as_runnable_runs(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And prints what the comment behind a `print` promises; an ellipsis stands for the rest."""
    monkeypatch.chdir(tmp_path)
    # The blocks of a page build on each other, as a reader would run them.
    names: dict[str, object] = {"__name__": "__docs__"}
    for code in blocks(page, runnable=True):
        # Without this file's own `from __future__`, which no reader would have in force.
        exec(compile(code, page_name(page), "exec", dont_inherit=True), names)
        printed = capsys.readouterr().out
        for promised in PRINTED.findall(code):
            assert promised.removesuffix(" ...") in printed


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_other_code_is_at_least_python(page: Path) -> None:
    for code in blocks(page, runnable=False):
        compile(code, page_name(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_a_page_imports_from_the_package_is_there(page: Path) -> None:
    for code in [*blocks(page, runnable=True), *blocks(page, runnable=False)]:
        for names in re.findall(r"^from steerable_llm import (.+)$", code, re.MULTILINE):
            for name in names.split(","):
                assert name.strip() in {*steerable_llm.__all__, "demo"}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]]
    assert [page for page in pages if page not in navigation] == []


def test_the_command_line_reference_is_what_the_command_line_says() -> None:
    module = script("write_cli_reference")
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == module.reference(), "docs/cli.md is out of date: run `make docs`"


def test_the_commands_that_the_pages_name_exist() -> None:
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    verbs = set(re.findall(r"^## steerable (\w+)", reference, re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"^steerable (\w+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(named) <= verbs, page_name(page)


def test_the_make_targets_that_the_pages_name_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"(?:^|`)make (\w+)", page.read_text("utf-8"), re.MULTILINE)
        assert set(named) <= targets, page_name(page)


@pytest.mark.parametrize("name", sorted({*steerable_llm.__all__} - {"__version__"}))
def test_every_exported_name_leads_to_its_object(name: str) -> None:
    exported = getattr(steerable_llm, name)
    assert exported.__name__ == name
    assert exported.__module__.startswith("steerable_llm.")
    assert exported.__doc__


def test_the_version_has_its_place_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or f"## [{steerable_llm.__version__}]" in changelog


def test_every_requirement_of_the_core_and_of_the_tests_is_pinned_in_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if not line.startswith("#")}
    wanted = [*project["dependencies"]]
    for extra in ("langchain", "llama-index", "dev"):
        wanted += project["optional-dependencies"][extra]
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in wanted} - {"steerable-llm"}
    assert names <= pinned


def test_the_picture_of_the_house_is_what_the_imports_say() -> None:
    module = script("draw_architecture")
    assert module.shown_digest() == module.house().digest, (
        "docs/architecture.svg is out of date: run `python docs/draw_architecture.py`"
    )


def test_the_house_has_no_arrow_upwards() -> None:
    found = script("draw_architecture").house()
    floor = {room: number for number, rooms in enumerate(found.floors) for room in rooms}
    assert [(a, b) for a, b in found.arrows if floor[a] > floor[b]] == []


def test_the_files_that_the_house_names_are_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:[\w]+/)+(?:\w+\.\w+)?)`", page)
    assert named
    missing = [n for n in named if not any((root / n).exists() for root in (ROOT, PACKAGE))]
    assert missing == []
