"""What the benchmark makes of its measurements: figures, reports, plots, the model of capacity."""
