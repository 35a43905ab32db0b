"""Starts the processes of an attempt, watches over them, and says how it ended."""
