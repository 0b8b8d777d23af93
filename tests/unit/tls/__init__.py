"""Tests of regproxy.tls."""
