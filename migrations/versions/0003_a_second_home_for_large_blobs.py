"""Large blobs may live in an object store; uploads that a client is about to refer to are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# A cascade deletes chunks of which no statement of ours knows: only a trigger sees the objects of all of them.
NOTE = """
CREATE FUNCTION note_unused_object() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO unused_objects (key) VALUES (OLD.object);
    RETURN NULL;
END $$
"""
TRIGGER = """
CREATE TRIGGER note_unused_object AFTER DELETE ON blob_chunks
FOR EACH ROW WHEN (OLD.object IS NOT NULL) EXECUTE FUNCTION note_unused_object()
"""


def upgrade() -> None:
    op.add_column("blobs", sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("blob_chunks", sa.Column("object", sa.Text(), nullable=True))
    op.add_column("blob_chunks", sa.Column("size", sa.BigInteger(), nullable=True))
    op.execute("UPDATE blob_chunks SET size = octet_length(data)")
    op.alter_column("blob_chunks", "size", nullable=False)
    op.alter_column("blob_chunks", "data", nullable=True)
    op.create_check_constraint(op.f("ck_blob_chunks_one_home"), "blob_chunks", "(data IS NULL) <> (object IS NULL)")
    op.create_table(
        "unused_objects",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_unused_objects")),
    )
    op.execute(NOTE)
    op.execute(TRIGGER)


def downgrade() -> None:
    """Fails as long as blobs live in an object store: the older version does not know of it."""
    op.alter_column("blob_chunks", "data", nullable=False)
    op.execute("DROP TRIGGER note_unused_object ON blob_chunks")
    op.execute("DROP FUNCTION note_unused_object")
    op.drop_table("unused_objects")
    op.drop_constraint(op.f("ck_blob_chunks_one_home"), "blob_chunks")
    op.drop_column("blob_chunks", "size")
    op.drop_column("blob_chunks", "object")
    op.drop_column("blobs", "wanted_at")
