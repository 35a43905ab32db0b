"""Imported by the server alone, last of all: what it was started with is not for its processes.

A file such as ``queue.py`` in the current folder would be taken for Python's own while the server
loads torch, so that folder is not searched then. What is loaded stays.
"""

import os

from trialrun.controller.launch.server import SAFE_PATH, SAFE_PATH_OF_SERVER

if os.environ.get(SAFE_PATH) == SAFE_PATH_OF_SERVER:
    del os.environ[SAFE_PATH]  # a program that the trial starts finds the files beside it
