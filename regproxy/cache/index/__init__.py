"""Metadata in SQLite."""
