"""The migrations make the tables that the code expects, once, whoever comes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

import steerable_llm.logs.migrations
from steerable_llm.errors import AnswerLogError
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.database import VERSIONS, metadata


def test_the_migrations_are_those_that_the_code_knows() -> None:
    config = Config()
    folder = Path(steerable_llm.logs.migrations.__file__).parent
    config.set_main_option("script_location", str(folder))
    found = ScriptDirectory.from_config(config).walk_revisions()
    assert tuple(revision.revision for revision in found)[::-1] == VERSIONS


def test_migrations_and_tables_say_the_same(log_url: str) -> None:
    with AnswerLog(log_url) as log, log.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    assert found == []


def test_a_log_of_a_newer_version_is_left_alone(log_url: str) -> None:
    with AnswerLog(log_url) as log, log.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(AnswerLogError, match="upgrade steerable-llm"):
        AnswerLog(log_url)


@pytest.mark.parametrize("version", ["0000", "a1b2c3d4e5f6"])
def test_the_database_of_another_program_is_left_alone(log_url: str, version: str) -> None:
    with AnswerLog(log_url) as log, log.engine.begin() as connection:
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{version}'"))
    with pytest.raises(AnswerLogError, match="give the log a database of its own") as caught:
        AnswerLog(log_url)
    assert "\n" not in str(caught.value)


def test_a_table_of_another_program_is_left_as_it_is(log_url: str) -> None:
    engine = create_engine(log_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE spans (mine INTEGER)"))
    with pytest.raises(AnswerLogError, match=r"already exists|something else"):
        AnswerLog(log_url)
    # Nothing half-made is left beside it.
    assert inspect(engine).get_table_names() == ["spans"]
    engine.dispose()
