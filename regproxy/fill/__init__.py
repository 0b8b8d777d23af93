"""Downloads that clients share (collapsed forwarding), over all workers."""
