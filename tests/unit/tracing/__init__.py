"""Tests of regproxy.telemetry."""
