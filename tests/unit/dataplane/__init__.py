"""Tests of regproxy.dataplane."""
