"""Collapsed forwarding: one download for many readers."""
