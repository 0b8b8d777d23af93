"""Whole pulls through the proxy, by real clients and raw ones, from real registries and scriptable ones."""
