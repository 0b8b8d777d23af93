"""What is sent as Authorization."""
