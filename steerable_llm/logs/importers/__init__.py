"""Answers and judgements from the logs that teams already have."""

from steerable_llm.logs.importers.importer import IMPORTERS, Importer, import_files, importer_named
from steerable_llm.logs.importers.judgement import Judgement, Rules
from steerable_llm.logs.importers.records import (
    ImportedAnswer,
    ImportReport,
    SkippedLine,
    UnusableRecord,
)
from steerable_llm.logs.importers.traces import Span

__all__ = [
    "IMPORTERS",
    "ImportReport",
    "ImportedAnswer",
    "Importer",
    "Judgement",
    "Rules",
    "SkippedLine",
    "Span",
    "UnusableRecord",
    "import_files",
    "importer_named",
]
