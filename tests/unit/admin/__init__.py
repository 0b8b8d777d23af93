"""Tests of regproxy.admin."""
