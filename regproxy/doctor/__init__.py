"""Examine a client's host: what keeps its pulls from going through the proxy."""
