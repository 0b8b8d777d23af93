"""Settings and their languages."""
