"""Alembic runs this: apply the migrations on the connection that the caller holds and commits."""

from __future__ import annotations

from alembic import context

from trialrun.controller.bookkeeping.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
)
with context.begin_transaction():
    context.run_migrations()
