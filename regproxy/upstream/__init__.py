"""Requests to origins."""
