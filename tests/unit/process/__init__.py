"""Tests of regproxy.process."""
