"""Settings from the environment and a TOML file, and parsers for their values."""
