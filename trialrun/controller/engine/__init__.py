"""Trains one trial in this process: the loop, its slots, and the sums over them.

``loop.py`` is the place to begin reading; the other files are its verbs.
"""
