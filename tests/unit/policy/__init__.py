"""Tests of regproxy.policy."""
