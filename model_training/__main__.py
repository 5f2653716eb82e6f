"""``python -m model_training`` is ``preread-train``."""

from __future__ import annotations

from model_training.cli import main

main()
