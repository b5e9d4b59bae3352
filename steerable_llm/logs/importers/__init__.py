"""Answers and judgements from the logs that teams already have."""

from steerable_llm.logs.importers.import_files import IMPORTERS, check_kind, import_files
from steerable_llm.logs.importers.records import ImportReport, Rules, SkippedLine

__all__ = ["IMPORTERS", "ImportReport", "Rules", "SkippedLine", "check_kind", "import_files"]
