"""Building blocks that know no domain: errors, locks, single flight, bounded dictionaries, IP addresses."""
