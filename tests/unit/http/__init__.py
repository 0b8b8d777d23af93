"""Tests of regproxy.http."""
