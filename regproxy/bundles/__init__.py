"""Images out of the cache into OCI image layouts, and from these into another cache."""
