"""One module each, without a proxy and without real parts; the names mirror regproxy/."""
