"""Fuzzing: targets with an oracle each, their corpora, and what runs them (`python -m tests.fuzz`)."""
