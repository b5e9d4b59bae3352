"""Draw docs/architecture.svg, the house in one picture, from the code's own imports.

``python docs/draw_architecture.py`` writes it anew; a test holds it against the code. A room is a
package or module directly below ``steerable_llm``; its floor is that of the layers contract in
``pyproject.toml``; an arrow is an import that no chain of other arrows already tells.
"""

import hashlib
import io
import json
import sys
import tomllib
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import grimp
import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"

# What each room is for, in the fewest words, and which of the two flows it belongs to.
ROOMS = {
    "cli": ("the verbs", "both"),
    "demo": ("the tour", "both"),
    "server": ("OpenAI-compatible", "answer"),
    "adapters": ("LangChain, LlamaIndex", "answer"),
    "evaluation": ("arms, calibration, proof", "learn"),
    "answer": ("request to text", "answer"),
    "methods": ("pairs to vector", "learn"),
    "reports": ("pages and figures", "both"),
    "runtime": ("hooked model, one forward", "both"),
    "policy": ("which step is steered how", "answer"),
    "logs": ("what was answered", "learn"),
    "pairs": ("good against bad", "learn"),
    "vector": ("THE CONTRACT", "both"),
    "chat": ("messages, template", "both"),
}
COLOURS = {"answer": "#d6e6f4", "learn": "#fde6cf", "both": "#ececec"}
# Modules that everything needs: no room of their own.
GROUND = {
    "errors",
    "files",
    "json_records",
    "metrics",
    "progress",
    "forked",
    "plugins",
    "version",
    "embedding",
    "__main__",
}


@dataclass(frozen=True)
class House:
    """The floors from top to bottom, each with its rooms, and the arrows between rooms."""

    floors: tuple[tuple[str, ...], ...]
    arrows: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> str:
        """Short hash of all that the picture shows."""
        shown = json.dumps([asdict(self), ROOMS], sort_keys=True)
        return hashlib.sha256(shown.encode()).hexdigest()[:16]


def house() -> House:
    """Measure the house from the layers contract and from the imports."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = contract["tool"]["importlinter"]["contracts"][0]["layers"]
    named = [layer.replace("(", "").replace(")", "").replace(":", "|").replace(",", "|").split("|")
             for layer in layers]  # fmt: skip
    floors = [tuple(name.strip() for name in floor if name.strip() not in GROUND)
              for floor in named]  # fmt: skip
    floors = [floor for floor in floors if floor]
    rooms = {name for floor in floors for name in floor}
    graph = grimp.build_graph("steerable_llm")
    uses = {
        (importer, imported)
        for module in graph.modules
        for target in graph.find_modules_directly_imported_by(module)
        if (importer := _room(module)) in rooms
        and (imported := _room(target)) in rooms
        and importer != imported
    }
    return House(tuple(floors), tuple(sorted(_reduced(uses))))


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _reduced(uses: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the arrows that no chain of other arrows tells."""

    def told(start: str, end: str) -> bool:
        reached, grown = {start}, True
        while grown:
            more = {b for a, b in uses if a in reached and (a, b) != (start, end)} - reached
            reached |= more
            grown = bool(more)
        return end in reached

    return {(a, b) for a, b in uses if not told(a, b)}


def draw(found: House) -> bytes:
    """Return the picture as SVG."""
    width, height = 2.3, 0.78
    places: dict[str, tuple[float, float]] = {}
    figure = Figure(figsize=(8.6, 1.22 * len(found.floors)))
    axes = figure.add_axes((0, 0, 1, 1))
    for number, floor in enumerate(found.floors):
        y = (len(found.floors) - 1 - number) * 1.4
        for place, name in enumerate(floor):
            x = (place - (len(floor) - 1) / 2) * 2.75
            places[name] = (x, y)
            purpose, flow = ROOMS[name]
            axes.add_patch(
                FancyBboxPatch(
                    (x - width / 2, y - height / 2), width, height,
                    boxstyle="round,pad=0.04", facecolor=COLOURS[flow], edgecolor="#555555",
                )
            )  # fmt: skip
            axes.text(x, y + 0.13, name, ha="center", va="center", fontsize=12, weight="bold")
            axes.text(x, y - 0.18, purpose, ha="center", va="center", fontsize=8.5)
    for upper, lower in found.arrows:
        (x1, y1), (x2, y2) = places[upper], places[lower]
        level, bend = y1 == y2, "arc3"
        start = (x1 + (width / 2 + 0.05) * (1 if x2 > x1 else -1), y1) if level else (
            x1 + 0.3 * (x2 > x1) - 0.3 * (x2 < x1), y1 - height / 2 - 0.05)  # fmt: skip
        end = (x2 + (width / 2 + 0.05) * (1 if x1 > x2 else -1), y2) if level else (
            x2 + 0.3 * (x1 > x2) - 0.3 * (x1 < x2), y2 + height / 2 + 0.05)  # fmt: skip
        if y1 - y2 > 2:  # past the rooms in between, along their side
            side = 1 if x1 > 0 or x2 > 0 else -1
            edge = side * (width / 2 + 0.05)
            start, end = (x1 + edge, y1), (x2 + edge, y2)
            bend = f"arc3,rad={-side * (0.35 if x1 == x2 else 0.8)}"
        axes.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", connectionstyle=bend, mutation_scale=11,
                linewidth=0.9, color="#777777", shrinkA=0, shrinkB=0,
            )
        )  # fmt: skip
    legend = {"answer": "answer", "learn": "learn", "both": "shared by both flows"}
    for number, (flow, label) in enumerate(legend.items()):
        x = -4.1 + number * 1.5
        axes.add_patch(
            FancyBboxPatch((x, -1.05), 0.22, 0.16, boxstyle="round,pad=0.02",
                           facecolor=COLOURS[flow], edgecolor="#555555")
        )  # fmt: skip
        axes.text(x + 0.34, -0.97, label, va="center", fontsize=9)
    axes.set_xlim(-4.3, 4.3)
    axes.set_ylim(-1.2, (len(found.floors) - 1) * 1.4 + 0.6)
    axes.axis("off")
    target = io.BytesIO()
    # A fixed salt and no date: the same house gives the same bytes.
    with mpl.rc_context({"svg.hashsalt": "steerable-llm", "svg.fonttype": "none"}):
        figure.savefig(
            target, format="svg",
            metadata={"Date": None, "Description": f"house {found.digest}"},
        )  # fmt: skip
    return target.getvalue()


def shown_digest() -> str:
    """The digest that the picture in docs/ was drawn with; empty where there is none."""
    text = PICTURE.read_text("utf-8") if PICTURE.is_file() else ""
    _, mark, rest = text.partition("house ")
    return rest[:16] if mark else ""


if __name__ == "__main__":
    if find_spec("grimp") is None:
        sys.exit("this needs grimp: pip install 'steerable-llm[dev]'")
    PICTURE.write_bytes(draw(house()))
    print(f"{PICTURE.relative_to(ROOT)}: {len(house().arrows)} arrows")
