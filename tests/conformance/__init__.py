"""The conformance suite of the OCI distribution specification, against registries and through the proxy."""
