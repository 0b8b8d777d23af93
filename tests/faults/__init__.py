"""Origins, disks, name servers and networks that fail."""
