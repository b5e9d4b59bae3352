"""Where the vectors lie that come with the package."""

from pathlib import Path

from steerable_llm.errors import UnknownVectorError, unknown

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder() -> Path:
    """Return the folder of the vectors that come along, with their policies in `policies`.

    An installed package has it inside; a source checkout beside the package, with all that belongs
    to a vector.
    """
    inside = _PACKAGE / "vectors"
    return inside if inside.is_dir() else _PACKAGE.parent / "vectors"


def shipped_vector(name: str) -> Path:
    """Return the file of a vector that comes along, such as "smollm2-faithfulness".

    Raises:
        UnknownVectorError: There is none of that name.
    """
    file = shipped_folder() / f"{name}.safetensors"
    if not file.is_file():
        there = [path.stem for path in shipped_folder().glob("*.safetensors")]
        raise UnknownVectorError(unknown("vector of this package", name, there))
    return file
