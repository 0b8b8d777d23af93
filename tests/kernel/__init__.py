"""The proxy under a kernel that does TLS (kTLS): a small virtual machine, and what is checked inside it."""
