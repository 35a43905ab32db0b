"""Slots and processes: who executes what, where they wait for each other, what they exchange."""
