"""What a tag points to: index rows, revalidation by HEAD, one request at a time over all processes."""
