"""Tests of regproxy.auth."""
