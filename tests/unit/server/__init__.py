"""Tests of regproxy.server."""
