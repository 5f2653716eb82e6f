"""Reports and comparisons of runs, with figures."""
