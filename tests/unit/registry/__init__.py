"""Tests of regproxy.registry."""
