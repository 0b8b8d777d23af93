"""Tests of regproxy.cli."""
