"""Tests of regproxy.fill."""
