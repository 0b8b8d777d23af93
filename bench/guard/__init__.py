"""Instruction counts of the hot paths, which a machine's load does not change."""
