"""Tests of regproxy.upstream.connections."""
