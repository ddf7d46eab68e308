"""The tables of a store, as the newest migration leaves them.

`job` and `event` are the truth. `trial` and `artifact` are derived from the events, in the
transactions that write them: the first holds the life of every trial, the second the files
that the log still names.
"""

from __future__ import annotations

import sqlalchemy as sql

HEAD = "0001"  # the newest migration; later ones are greater, as text
VERSION_TABLE = "autoprune_version"  # a database may hold the version of others beside ours

metadata = sql.MetaData()
job = sql.Table(
    "job",
    metadata,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("spec", sql.Text, nullable=False),
    sql.Column("created", sql.Double, nullable=False),
    sql.Column("epoch", sql.Integer, nullable=False),
    sql.Column("owner", sql.Text),
    sql.Column("lease_until", sql.Double),  # Unix s by the database's clock
)
event = sql.Table(
    "event",
    metadata,
    sql.Column("job", sql.ForeignKey("job.name"), primary_key=True),
    sql.Column("seq", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("time", sql.Double, nullable=False),
    sql.Column("kind", sql.Text, nullable=False),
    sql.Column("trial", sql.Integer),
    sql.Column("attempt", sql.Integer, nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)
snapshot = sql.Table(
    "snapshot",
    metadata,
    sql.Column("job", sql.ForeignKey("job.name"), primary_key=True),
    sql.Column("seq", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("body", sql.LargeBinary, nullable=False),
)
trial = sql.Table(
    "trial",
    metadata,
    sql.Column("job", sql.ForeignKey("job.name"), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("searcher", sql.Text),
    sql.Column("rung", sql.Integer),
    sql.Column("parent", sql.Integer),
    sql.Column("state", sql.Text, nullable=False),
    sql.Column("attempts", sql.Integer, nullable=False),
    sql.Column("seq", sql.Integer, nullable=False),  # of the event that changed it last
)
artifact = sql.Table(
    "artifact",
    metadata,
    sql.Column("job", sql.ForeignKey("job.name"), primary_key=True),
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("kind", sql.Text, nullable=False),  # weights or checkpoint
    sql.Column("trial", sql.Integer),
    sql.Column("seq", sql.Integer, nullable=False),  # of the newest event that names it
)
