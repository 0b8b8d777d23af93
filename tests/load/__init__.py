"""Long and random runs: their runners (`python -m tests.load.soak`), and a bounded run of each."""
