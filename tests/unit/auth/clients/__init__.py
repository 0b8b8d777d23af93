"""Tests of regproxy.auth.clients."""
