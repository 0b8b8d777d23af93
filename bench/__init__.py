"""Measures regproxy against its peers on the machine it runs on: `python -m bench.run short`."""
