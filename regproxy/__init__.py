"""A caching, intercepting proxy for container image pulls."""
