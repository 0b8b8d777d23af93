"""Mixes: what many clients ask for and when, made by a model or from an access log, and replayed."""
