"""Fit and measure the detector of images that are no chest radiographs."""
