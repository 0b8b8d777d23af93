"""Tests of regproxy.cache."""
