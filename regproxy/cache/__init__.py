"""The on-disk cache: blobs, parts, eviction, reconciliation, verification, pins."""
