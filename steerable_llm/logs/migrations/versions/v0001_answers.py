"""The tables as they first were: answers, how far imports are, and lines of open traces."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_COUNTER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_INDEXES = {
    "answers_by_verdict": ["verdict", "reason", "seq"],
    "answers_by_prompt": ["prompt_key", "verdict", "seq"],
    "answers_by_step": ["step", "verdict", "seq"],
    "answers_by_model": ["model", "verdict", "seq"],
    "answers_by_time": ["time"],
    "answers_by_trace": ["trace_id", "seq"],
}


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "answers",
        sa.Column("seq", _COUNTER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("passages", sa.JSON, nullable=False),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("correction", sa.Text),
        sa.Column("comment", sa.Text),
        sa.Column("step", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("reference", sa.Text),
        sa.Column("revision", sa.Text),
        sa.Column("steering", sa.JSON, nullable=False),
        sa.Column("usage", sa.JSON, nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("label_source", sa.Text),
        sa.Column("reviewer", sa.Text),
        sa.Column("time", sa.DateTime),
        sa.Column("reviewed", sa.DateTime),
        sa.Column("trace_id", sa.Text),
        sa.Column("prompt_key", sa.Text, nullable=False),
    )
    for name, columns in _INDEXES.items():
        op.create_index(name, "answers", columns)
    op.create_table(
        "imports",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("settings", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("lines", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "spans",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("span_id", sa.Text, primary_key=True),
        sa.Column("trace_id", sa.Text),
        sa.Column("target", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("time", sa.Text),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
    )
    op.create_index("spans_by_trace", "spans", ["source", "trace_id"])
