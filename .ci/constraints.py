"""Writes constraints.txt: the versions in this environment of all that the project needs.

Run it as ``.venv/bin/python .ci/constraints.py`` after an upgrade, when the tests have passed.
"""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
# "all" would pin what is only declared for later parts as well, which the tests do not run with.
EXTRAS = ("langchain", "llama-index", "lora", "dev", "ray")


def closure() -> dict[str, str]:
    """Returns the installed version of every package reachable from the project's extras."""
    versions: dict[str, str] = {}
    todo: list[tuple[str, str]] = [("steerable-llm", extra) for extra in ("", *EXTRAS)]
    todo += [("hatchling", ""), ("editables", "")]
    seen: set[tuple[str, str]] = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        # "2.13.0+cpu" names one build; the plain version also allows the one with CUDA.
        versions[name] = found.version.split("+")[0]
        for line in found.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                key = re.sub(r"[-_.]+", "-", needed.name).lower()
                todo += [(key, wanted) for wanted in ("", *needed.extras)]
    del versions["steerable-llm"]
    return versions


def main() -> None:
    """Writes the file."""
    lines = [f"{name}=={version}" for name, version in sorted(closure().items())]
    header = "# The versions that the tests ran with; written by .ci/constraints.py.\n"
    (ROOT / "constraints.txt").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"constraints.txt: {len(lines)} packages")


if __name__ == "__main__":
    main()
