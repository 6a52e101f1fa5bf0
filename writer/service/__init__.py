"""The writer as a process, and what watches it."""
