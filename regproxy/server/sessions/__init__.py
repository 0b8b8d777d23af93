"""Client connections: a session for each way in which clients connect, and the handlers that they share."""
