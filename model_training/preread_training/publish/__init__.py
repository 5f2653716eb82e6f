"""From a run to a bundle: export, calibration, card."""
