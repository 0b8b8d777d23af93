"""The supervisor, its workers and the janitor."""
