"""Client connections."""
