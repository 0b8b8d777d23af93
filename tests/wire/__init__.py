"""The proxy's ports, byte by byte: a raw client before it, a scriptable origin behind it."""
