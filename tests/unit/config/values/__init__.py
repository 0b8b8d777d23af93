"""Tests of regproxy.config.values."""
