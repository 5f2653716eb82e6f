"""The command ``preread-train``."""
