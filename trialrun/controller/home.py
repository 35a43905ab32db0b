"""Where everything lives: one home folder and one database. The environment is read here alone."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import platformdirs

from trialrun._errors import BookkeepingError

DATABASE_FILE = "trialrun.db"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Home:
    """The folder of all experiments, and the database that records them."""

    folder: Path
    database_url: str

    @property
    def database_file(self) -> Path | None:
        """The database's file; None where it is a server's."""
        prefix = "sqlite:///"
        is_file = self.database_url.startswith(prefix)
        return Path(self.database_url.removeprefix(prefix)) if is_file else None

    @property
    def experiments(self) -> Path:
        """One folder for each experiment, named by its number."""
        return self.folder / "experiments"


def find_home(folder: str | None = None, database_url: str | None = None) -> Home:
    """Returns the home: the flags, else TRIALRUN_HOME and TRIALRUN_DB, else the user's data folder.

    Args:
        folder: What ``--home`` says.
        database_url: What ``--db`` says: a SQLAlchemy URL.
    """
    chosen = folder or os.environ.get("TRIALRUN_HOME") or platformdirs.user_data_dir("trialrun")
    home = Path(chosen).expanduser().absolute()
    url = database_url or os.environ.get("TRIALRUN_DB") or f"sqlite:///{home / DATABASE_FILE}"
    return Home(folder=home, database_url=url)


def make_home(home: Home) -> None:
    """Makes the home's folders.

    Raises:
        BookkeepingError: They cannot be made or written.
    """
    try:
        home.experiments.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BookkeepingError(_not_writable(home, error.strerror or str(error))) from None
    if not os.access(home.experiments, os.W_OK | os.X_OK):
        raise BookkeepingError(_not_writable(home, "permission denied"))


def _not_writable(home: Home, reason: str) -> str:
    return (
        f"The home {home.folder} cannot be written: {reason}. Choose another with --home or "
        "TRIALRUN_HOME."
    )
