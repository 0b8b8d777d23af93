"""Tests of regproxy.onboarding."""
