"""Tests of regproxy.config."""
