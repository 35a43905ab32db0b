"""A checkpoint is whole or absent: copied in memory, written aside, flushed, renamed, recorded."""
