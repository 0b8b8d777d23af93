"""Tests of regproxy."""
