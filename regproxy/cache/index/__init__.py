"""Metadata in SQLite: tags, sizes and types of objects, last use, pins."""
