"""The command line: each command parses, makes one library call, and prints."""

from trialrun.cli._main import main

__all__ = ["main"]
