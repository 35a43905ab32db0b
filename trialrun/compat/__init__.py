"""Other tools' names for what trialrun does: files of their users run with one import changed."""
