"""The OCI distribution protocol, pure."""
