"""Let cookies of browsers hold the id of a session instead of a token, and record when tokens are used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("tokens", sa.Column("last_used_at", TIME, nullable=True))
    op.create_table(
        "browser_sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["token_id"], ["tokens.id"], name="fk_browser_sessions_token_id_tokens", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_browser_sessions"),
        sa.UniqueConstraint("sha256", name="uq_browser_sessions_sha256"),
    )
    op.create_index("ix_browser_sessions_token_id", "browser_sessions", ["token_id", "id"])


def downgrade() -> None:
    op.drop_table("browser_sessions")
    op.drop_column("tokens", "last_used_at")
