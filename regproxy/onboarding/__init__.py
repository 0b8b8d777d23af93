"""Render what points clients at the proxy: scripts, configuration, the page that lists them."""
