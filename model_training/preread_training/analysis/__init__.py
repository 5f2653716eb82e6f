"""Measures of a network: evaluation, perturbation, activation maps."""
