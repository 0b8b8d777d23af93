"""Decisions from values alone, pure."""
