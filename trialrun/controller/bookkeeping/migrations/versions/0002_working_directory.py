"""The folder in which an experiment was submitted, below which its trial may find modules.

Of older experiments it is not known.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.add_column("experiments", sa.Column("working_directory", sa.Text(), nullable=True))
