"""Settings from the environment and a TOML file, and the languages that they are written in."""
