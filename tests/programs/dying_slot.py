"""The slot of ``stub_slot.py``, one of which dies at a named step: ``dying_slot.py INFERENCES POINT MARKER``.

The slot that gets to the step and can remove the file MARKER dies there, so that it happens once. POINT ``list``: each
step is appended to MARKER when it is first reached.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import preread.model.assess
from preread.runner.child import main, protocol
from preread.share import safe_read

sys.path.append(str(Path(__file__).parent))  # a slot is started without its own folder
import stub_slot

POINT, MARKER = sys.argv[2], Path(sys.argv[3])
_reached: set[str] = set()


def reach(point: str) -> None:
    if point in _reached:
        return
    _reached.add(point)
    if POINT == "list":
        with MARKER.open("a") as stream:
            stream.write(point + "\n")
    elif point == POINT:
        try:
            MARKER.unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def wrap(owner: Any, name: str, what: str) -> None:
    really: Callable[..., Any] = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        reach(f"before {what}")
        answer = really(*arguments, **named)
        reach(f"after {what}")
        return answer

    setattr(owner, name, wrapped)


def send(replies: Any, reply: protocol.Reply) -> None:
    """Like the real one, with a step in the middle of the line."""
    what = f"saying {reply.kind.value}"
    line = protocol.encode_message(reply)
    reach(f"before {what}")
    replies.write(line[: len(line) // 2])
    replies.flush()
    reach(f"half way through {what}")
    replies.write(line[len(line) // 2 :])
    replies.flush()
    reach(f"after {what}")


wrap(main, "_limit", "giving up its rights")
wrap(protocol, "decode_job", "hearing a job")
wrap(safe_read, "read_opened_file", "reading the file")
wrap(protocol, "decode_known", "hearing whether the content is known")
wrap(preread.model.assess, "assess", "assessing")
main._send = send

if __name__ == "__main__":
    sys.exit(main.main(stub_slot.MeanClassifier, confined=False))
