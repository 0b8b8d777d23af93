"""What a tag points to: rows, revalidation by HEAD, one request at a time over all processes."""
