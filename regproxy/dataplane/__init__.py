"""The data plane, in Cython: sockets, TLS and the bytes of bodies. Imports nothing of ours."""
