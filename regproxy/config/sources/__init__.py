"""Where the values of settings come from: the environment and the TOML file, put together."""
