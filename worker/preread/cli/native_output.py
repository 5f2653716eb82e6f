"""Suppression of what native libraries write to standard error."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_SHOWN_BYTES = 10_000


@contextmanager
def suppress_native_output() -> Iterator[None]:
    """Redirect standard error to a file; print it if the block raises."""
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(own, 2)
            captured.seek(0)
            os.write(2, captured.read(_SHOWN_BYTES))
            raise
        finally:
            os.dup2(own, 2)
            os.close(own)
