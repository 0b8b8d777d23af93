"""Requests to origins: names, connections, redirects, rate limits, circuit breakers."""
