"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trialrun.controller.home import Home, find_home, make_home

if TYPE_CHECKING:
    from trialrun.controller.bookkeeping import Database

F = TypeVar("F", bound=Callable[..., Any])


def home_options(command: F) -> F:
    """Adds ``--home`` and ``--db``, and hands the command the ``home`` that they name."""

    @click.option("--home", "home_folder", metavar="DIR", help="Folder of all records and files.")
    @click.option("--db", "database_url", metavar="URL", help="Database, as a SQLAlchemy URL.")
    @functools.wraps(command)
    def with_home(
        *args: Any, home_folder: str | None, database_url: str | None, **kwargs: Any
    ) -> Any:
        return command(*args, home=find_home(home_folder, database_url), **kwargs)

    return with_home  # type: ignore[return-value]  # click's decorators keep the name only


def submission_options(command: F) -> F:
    """Adds what says how a trial is trained: ``--config``, ``--slots``, ``--hp`` and ``--seed``."""
    options = [
        click.option(
            "--config",
            "config_file",
            metavar="FILE.yaml",
            help="trialrun's own or a Determined configuration. Default: trial.yaml beside it.",
        ),
        click.option("--slots", type=int, help="Logical workers that share each batch."),
        click.option(
            "--hp", "hyperparameters", multiple=True, metavar="NAME=VALUE", help="Repeatable."
        ),
        click.option("--seed", type=int, help="All randomness is a function of it. Default: 0."),
    ]
    # The last that is applied is the first that --help shows.
    for option in reversed(options):
        command = option(command)
    return command


def json_option(command: F) -> F:
    """Adds ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)


def has_records(home: Home) -> bool:
    """Returns whether anything was ever recorded there; if not, says so."""
    if home.database_file is None or home.database_file.exists():
        return True
    click.echo(
        f"There is no database {home.database_file} yet: trialrun submit makes it.", err=True
    )
    return False


def open_database(home: Home, create: bool = False) -> Database:
    """Opens the records, and marks attempts whose processes are gone.

    Args:
        home: Where they are.
        create: Whether to make home and database where there are none.
    """
    # Commands that train import this module before the server runs, so it stays light.
    from trialrun.controller.bookkeeping import Database
    from trialrun.controller.liveness import bury_dead_attempts

    if create:
        make_home(home)
    database = Database.open(home.database_url, create=create)
    for attempt in bury_dead_attempts(database):
        click.echo(
            f"Attempt {attempt.number} of trial {attempt.trial_id} is dead: its process is gone. "
            "It is marked so, and can be resumed.",
            err=True,
        )
    return database
