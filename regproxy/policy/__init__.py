"""Decide from values alone what a request gets, what is shared and what may be reached. Pure functions."""
