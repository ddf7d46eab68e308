"""The schema of the first release."""

import sqlalchemy as sql
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    _create_log()
    _create_derived()


def _create_log() -> None:
    op.create_table(
        "job",
        sql.Column("name", sql.Text, primary_key=True),
        sql.Column("spec", sql.Text, nullable=False),
        sql.Column("created", sql.Double, nullable=False),
        sql.Column("epoch", sql.Integer, nullable=False),
        sql.Column("owner", sql.Text),
        sql.Column("lease_until", sql.Double),
    )
    op.create_table(
        "event",
        sql.Column("job", sql.Text, sql.ForeignKey("job.name"), primary_key=True),
        sql.Column("seq", sql.Integer, primary_key=True, autoincrement=False),
        sql.Column("time", sql.Double, nullable=False),
        sql.Column("kind", sql.Text, nullable=False),
        sql.Column("trial", sql.Integer),
        sql.Column("attempt", sql.Integer, nullable=False),
        sql.Column("body", sql.Text, nullable=False),
    )
    op.create_table(
        "snapshot",
        sql.Column("job", sql.Text, sql.ForeignKey("job.name"), primary_key=True),
        sql.Column("seq", sql.Integer, primary_key=True, autoincrement=False),
        sql.Column("body", sql.LargeBinary, nullable=False),
    )


def _create_derived() -> None:
    op.create_table(
        "trial",
        sql.Column("job", sql.Text, sql.ForeignKey("job.name"), primary_key=True),
        sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
        sql.Column("searcher", sql.Text),
        sql.Column("rung", sql.Integer),
        sql.Column("parent", sql.Integer),
        sql.Column("state", sql.Text, nullable=False),
        sql.Column("attempts", sql.Integer, nullable=False),
        sql.Column("seq", sql.Integer, nullable=False),
    )
    op.create_table(
        "artifact",
        sql.Column("job", sql.Text, sql.ForeignKey("job.name"), primary_key=True),
        sql.Column("name", sql.Text, primary_key=True),
        sql.Column("kind", sql.Text, nullable=False),
        sql.Column("trial", sql.Integer),
        sql.Column("seq", sql.Integer, nullable=False),
    )
