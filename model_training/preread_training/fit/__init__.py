"""Training: one fold, a whole run, its record."""
