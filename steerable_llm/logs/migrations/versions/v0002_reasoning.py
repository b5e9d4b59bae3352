"""What a thinking model thought, and what its chat template was given."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("answers", sa.Column("reasoning", sa.Text))
    op.add_column("answers", sa.Column("chat_template_kwargs", sa.JSON(none_as_null=True)))
