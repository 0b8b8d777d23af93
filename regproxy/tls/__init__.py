"""The CA, leaves, TLS contexts."""
