"""State machine of files, claims and results, in SQL."""
