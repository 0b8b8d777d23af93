"""Tests of regproxy.cache.index."""
