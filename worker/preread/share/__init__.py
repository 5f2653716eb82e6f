"""Watched folders: scan, watch, stability, safe reading."""
