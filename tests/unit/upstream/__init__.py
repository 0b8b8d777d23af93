"""Tests of regproxy.upstream."""
