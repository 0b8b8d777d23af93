"""The supervisor, workers, the janitor."""
