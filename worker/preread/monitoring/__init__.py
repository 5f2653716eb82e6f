"""Health, metrics, alarms, drift."""
