"""Tests of regproxy.doctor."""
