"""The languages that settings are written in. It imports nothing of the settings."""
