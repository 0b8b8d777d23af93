"""What is sent as Authorization: logins, tokens, and what becomes of refused ones."""
