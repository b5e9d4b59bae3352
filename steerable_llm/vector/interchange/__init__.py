"""Steering vectors in the file formats of other tools.

`export_vector` writes one and says what the format cannot express; `import_vector` reads one and
records what its file does not say. One module per format, all of them in `FORMATS`.
"""

from steerable_llm.vector.interchange.convert import (
    Export,
    export_vector,
    guess_format,
    import_vector,
)
from steerable_llm.vector.interchange.formats import FORMATS, Format

__all__ = ["FORMATS", "Export", "Format", "export_vector", "guess_format", "import_vector"]
