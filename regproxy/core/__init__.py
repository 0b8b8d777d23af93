"""Building blocks without domain knowledge: errors, locks, single-flight, bounded dictionaries, IP
addresses.
"""
