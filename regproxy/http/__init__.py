"""HTTP/1.1 messages: heads, framing, ranges, conditions (RFC 9110, RFC 9112). Pure functions."""
