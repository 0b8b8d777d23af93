"""How the values of settings are written: parsers for sizes, times, hosts, lists. They know no setting."""
