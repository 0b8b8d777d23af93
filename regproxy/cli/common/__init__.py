"""What commands have in common: options, exit codes, how they end, and what they print."""
