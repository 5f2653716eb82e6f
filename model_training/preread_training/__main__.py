"""``python -m preread_training`` is ``preread-train``."""

from __future__ import annotations

from preread_training.cli.app import main

main()
