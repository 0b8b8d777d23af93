"""Tests of regproxy.admin.endpoints."""
