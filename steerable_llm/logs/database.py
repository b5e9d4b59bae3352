"""The database of an answer log: its tables and rows, and opening it in SQLite or PostgreSQL."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Column,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    RowMapping,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from steerable_llm.errors import AnswerLogError, InvalidInputError, MissingExtraError
from steerable_llm.logs.answers import LoggedAnswer

#: The migrations, oldest first; a test holds them against the migrations themselves.
VERSIONS = ("0001", "0002")
#: Why an answer is refused, wherever in it that is.
UNSTORABLE = (
    "holds a zero character, half of a surrogate pair or a number that is not finite, "
    "which no database stores"
)


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC; SQLite has no zones, so none is stored."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Drop the zone, once the time is in UTC."""
        del dialect
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Say again that it is UTC."""
        del dialect
        return None if value is None else value.replace(tzinfo=UTC)


metadata = MetaData()
# SQLite counts a row up by itself only where the key is a plain INTEGER.
_Counter = BigInteger().with_variant(Integer, "sqlite")

answers = Table(
    "answers",
    metadata,
    Column("seq", _Counter, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("question", Text, nullable=False),
    Column("passages", JSON, nullable=False),
    Column("messages", JSON, nullable=False),
    Column("answer", Text, nullable=False),
    Column("verdict", Text),
    Column("reason", Text),
    Column("correction", Text),
    Column("comment", Text),
    Column("step", Text),
    Column("model", Text),
    Column("reference", Text),
    Column("revision", Text),
    Column("steering", JSON, nullable=False),
    Column("usage", JSON, nullable=False),
    Column("score", Float),
    Column("label_source", Text),
    Column("reviewer", Text),
    Column("time", UtcTime),
    Column("reviewed", UtcTime),
    Column("trace_id", Text),
    Column("prompt_key", Text, nullable=False),
    Column("reasoning", Text),
    Column("chat_template_kwargs", JSON(none_as_null=True)),
    Index("answers_by_verdict", "verdict", "reason", "seq"),
    Index("answers_by_prompt", "prompt_key", "verdict", "seq"),
    Index("answers_by_step", "step", "verdict", "seq"),
    Index("answers_by_model", "model", "verdict", "seq"),
    Index("answers_by_time", "time"),
    Index("answers_by_trace", "trace_id", "seq"),
)

# How far each file was read, so that an import that was killed goes on where it was.
imports = Table(
    "imports",
    metadata,
    Column("path", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("settings", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("lines", BigInteger, nullable=False),
)

# Lines of a trace that wait for the other lines of their trace; between imports only what whole
# runs gave, where that tells which of their answers is meant by a judgement that comes later.
spans = Table(
    "spans",
    metadata,
    Column("source", Text, primary_key=True),
    Column("span_id", Text, primary_key=True),
    Column("trace_id", Text),
    Column("target", Text),
    Column("kind", Text, nullable=False),
    Column("time", Text),
    Column("place", Text, nullable=False),
    Column("content", JSON, nullable=False),
    Index("spans_by_trace", "source", "trace_id"),
)


def to_row(answer: LoggedAnswer) -> dict[str, Any]:
    """Return an answer as a row of the table ``answers``.

    Raises:
        InvalidInputError: A text, also one of a passage or a message, holds what PostgreSQL cannot
            store (a zero character, or half of a surrogate pair), or what was applied is no JSON;
            SQLite refuses it as well, so that a log can move.
    """
    row = dict(vars(answer))
    # By hand: pydantic's dump of everything takes twice as long, and imports are long.
    row["passages"] = [{"id": p.id, "text": p.text} for p in answer.passages]
    row["messages"] = [message.to_wire() for message in answer.messages]
    row["steering"] = list(answer.steering)
    for name, value in row.items():
        if value is not None and not isinstance(value, datetime) and not storable(value):
            raise InvalidInputError(
                f"the answer {answer.id!r} {UNSTORABLE}: remove it from its {name}"
            )
    row["prompt_key"] = answer.prompt_key
    return row


def from_row(row: RowMapping | Mapping[str, Any]) -> LoggedAnswer:
    """Return a row of the table ``answers`` as an answer."""
    return LoggedAnswer.model_validate({name: row[name] for name in LoggedAnswer.model_fields})


def storable(value: object) -> bool:
    """Return whether every database stores a value of JSON.

    No text in it has a zero character or half of a surrogate pair, and every number is finite.
    """
    if value is None:
        return True
    if isinstance(value, str):
        try:
            return "\x00" not in value and (value.isascii() or bool(value.encode()))
        except UnicodeEncodeError:
            return False
    if isinstance(value, dict):
        named = all(isinstance(name, str) and storable(name) for name in value)
        return named and all(map(storable, value.values()))
    if isinstance(value, list | tuple):
        return all(map(storable, value))
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


#: Seconds that a writer waits for another process to finish writing.
PATIENCE = 60.0
# Any number will do, as long as all processes that migrate a log use the same.
_LOCK = 7_240_815_211


def open_database(url: str) -> Engine:
    """Return the engine of a log's database, its tables made or brought up to date.

    Args:
        url: ``sqlite:///answers.db`` or ``postgresql://user@host/name``.

    Raises:
        InvalidInputError: The address is none of these.
        MissingExtraError: PostgreSQL without psycopg.
        AnswerLogError: The database cannot be opened, or a newer version made it.
    """
    engine = _engine(_address(url))
    try:
        with database_errors(engine):
            _migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def is_database(log: str) -> bool:
    """Return whether a name is the address of a log, or a SQLite file."""
    if "://" in log:
        return True
    path = Path(log)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\x00"


@contextmanager
def database_errors(engine: Engine) -> Iterator[None]:
    """Turn what goes wrong in the database into one line that names it."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise AnswerLogError(
            f"the answer log {engine.url.render_as_string(hide_password=True)} failed: "
            f"{lines[0]}; check that the database is there and that you may write to it"
        ) from error


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; it waits for other writers and is kept whole or not at all."""
    # Without "writes" two SQLite writers that both began by reading would refuse each other.
    with (
        database_errors(engine),
        engine.connect().execution_options(writes=True) as connection,
        connection.begin(),
    ):
        yield connection


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidInputError(
            f"{url!r} is no database address: write sqlite:///answers.db for a file, or "
            "postgresql://user@host/name"
        ) from None
    kind = address.get_backend_name()
    if kind == "sqlite":
        if address.database in (None, "", ":memory:"):
            raise InvalidInputError(
                f"{url!r} would keep the log in memory, where only one thread sees it: "
                "name a file, as in sqlite:///answers.db"
            )
        return address
    if kind in ("postgresql", "postgres"):
        if find_spec("psycopg") is None:
            raise MissingExtraError(
                "a log on PostgreSQL needs psycopg: pip install 'steerable-llm[postgres]'"
            )
        return address.set(drivername="postgresql+psycopg")
    raise InvalidInputError(
        f"an answer log lives in SQLite or PostgreSQL, not in {kind!r}: write "
        "sqlite:///answers.db or postgresql://user@host/name"
    )


def _engine(address: URL) -> Engine:
    if address.get_backend_name() != "sqlite":
        return create_engine(address, connect_args={"connect_timeout": 10}, pool_pre_ping=True)
    folder = Path(address.database or "").parent
    if not folder.is_dir():
        raise InvalidInputError(f"the folder {folder} of the answer log is missing: make it first")
    _refuse_foreign(Path(address.database or ""))
    # What people asked and said is for its owner's eyes; SQLite's other files take this one's mode.
    with suppress(OSError):
        os.close(os.open(address.database or "", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    engine = create_engine(address, connect_args={"timeout": PATIENCE})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _refuse_foreign(file: Path) -> None:
    """Refuse the database of something else before anything in it is touched.

    Raises:
        AnswerLogError: It has tables, and none that says which version of a log they are of.
    """
    if not (file.is_file() and file.stat().st_size):
        return
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            names = [name for (name,) in database.execute(query)]
    except sqlite3.Error:
        return  # told when it is opened to write
    if names and "alembic_version" not in names:
        raise AnswerLogError(
            f"{file} is the database of something else (it has a table {names[0]!r}): give the "
            "log a file of its own"
        )


def _set_up_sqlite(connection: Any, record: object) -> None:
    del record
    # The driver begins transactions late and as readers; `_begin_sqlite` does it instead.
    connection.isolation_level = None
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            # The first one to open a file turns it into WAL, for which it must be alone; SQLite
            # does not wait by itself here.
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            break
        except connection.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    # Enough for any crash of a process; a power cut may lose the last moment, never the file.
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(engine: Engine) -> None:
    with engine.connect() as connection:
        version = _version(connection)
    if version == VERSIONS[-1]:
        return
    if version is not None and version not in VERSIONS:
        if version.isdecimal() and version > VERSIONS[-1]:
            raise AnswerLogError(
                f"a newer version of steerable-llm made this answer log (tables {version}, known "
                f"up to {VERSIONS[-1]}): upgrade steerable-llm"
            )
        raise AnswerLogError(
            f"{engine.url.render_as_string(hide_password=True)} is the database of something "
            f"else (its tables have the version {version!r}): give the log a database of its own"
        )
    # Only now, since it takes a moment and hardly any run needs it.
    from alembic import command
    from alembic.config import Config

    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        command.upgrade(config, "head")


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
