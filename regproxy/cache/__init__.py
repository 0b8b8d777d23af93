"""The cache on disk: blobs, parts, eviction, reconciliation, verification, pins."""
