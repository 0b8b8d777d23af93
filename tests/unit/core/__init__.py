"""Tests of regproxy.core."""
