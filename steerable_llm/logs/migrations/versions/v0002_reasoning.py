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


def downgrade() -> None:
    """Remove the columns, and what they hold with them."""
    with op.batch_alter_table("answers") as table:
        table.drop_column("reasoning")
        table.drop_column("chat_template_kwargs")
