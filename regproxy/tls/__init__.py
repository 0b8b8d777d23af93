"""The certificate authority, certificates of hosts, TLS contexts."""
