"""Mutation testing: draws one-line changes by seed and runs the nearest tests."""
