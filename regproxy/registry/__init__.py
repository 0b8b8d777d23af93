"""The OCI distribution protocol: paths, manifests, tokens, rate limits. Pure functions."""
