"""Tests of regproxy.tags."""
