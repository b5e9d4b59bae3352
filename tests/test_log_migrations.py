"""The migrations make the tables that the code expects, once, whoever comes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import steerable_llm.logs.migrations
from steerable_llm.errors import AnswerLogError
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.schema import HEAD, metadata


def test_the_newest_migration_is_the_one_that_the_code_knows() -> None:
    config = Config()
    folder = Path(steerable_llm.logs.migrations.__file__).parent
    config.set_main_option("script_location", str(folder))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_migrations_and_tables_say_the_same(log_url: str) -> None:
    with AnswerLog(log_url) as log, log.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    assert found == []


def test_a_log_of_a_newer_version_is_left_alone(log_url: str) -> None:
    with AnswerLog(log_url) as log, log.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(AnswerLogError, match="upgrade steerable-llm"):
        AnswerLog(log_url)
