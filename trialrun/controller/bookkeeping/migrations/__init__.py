"""The history of the schema: every revision that this version of trialrun can bring up to date.

Listed here, so that opening an up-to-date database needs no alembic. A new revision is a module in
``versions`` and one more name below; a test compares the two.
"""

from __future__ import annotations

REVISIONS = ("0001", "0002")
"""Oldest first."""

HEAD = REVISIONS[-1]
"""The revision that the models describe."""
