"""Connections to origins: names looked up, addresses tried, parent proxies asked, idle ones kept."""
