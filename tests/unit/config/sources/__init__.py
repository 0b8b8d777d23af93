"""Tests of regproxy.config.sources."""
