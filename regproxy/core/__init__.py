"""What knows no domain."""
