"""What a tag points to."""
