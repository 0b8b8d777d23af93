"""Connections of clients, by the ways in which they come."""
