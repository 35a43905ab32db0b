"""Imported by the server alone, first of all: it outlives signals that are sent to everybody.

A terminal sends SIGINT, a service manager SIGTERM, and a lost terminal SIGHUP, to every process.
What they mean is for the supervisor and the training processes to say; without the server, the
supervisor would not learn how these ended. The server ends when the supervisor is gone.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
