"""Tests of regproxy.debug."""
