"""Metrics with intervals, calibration, operating points."""
