"""``python -m preread`` is ``preread``."""

from __future__ import annotations

import sys

from preread.cli import main

sys.exit(main())
