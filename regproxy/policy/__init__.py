"""Decisions from values alone: what a request gets, what is shared, who may be reached. Pure."""
