"""``python -m worker`` is ``preread``."""

from __future__ import annotations

import sys

from worker.cli import main

sys.exit(main())
