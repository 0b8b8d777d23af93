"""The certificate authority, certificates of hosts, and TLS contexts."""
