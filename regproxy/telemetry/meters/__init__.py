"""The metrics by subject: their names, labels and meaning, and what counts them."""
