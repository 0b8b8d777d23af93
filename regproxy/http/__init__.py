"""HTTP/1.1 messages, pure."""
