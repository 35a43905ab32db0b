"""Metrics and reducers: from what slots return to the numbers that are written down."""
