"""A flame graph of the worker and its slots at work: ``python -m tests.bench.flame flame.svg --data DIR``.

By hand, on an idle machine; ``py-spy`` must be on the path. Threads that wait are left out.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.bench import ways
from tests.bench.films import kinds, put, written

_WARM_FILMS = 100
_PER_S = 200
_WITHIN_S = 600.0


def main() -> None:
    """Record while films of 224 px queue, from the hundredth on."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.flame", description=__doc__.splitlines()[0])
    parser.add_argument("svg", type=Path)
    parser.add_argument("--data", type=Path, help="folder with chest_xray_224; default: phantoms")
    asked = parser.parse_args()
    kind = kinds(asked.data, 1.0)[0]
    with tempfile.TemporaryDirectory(prefix="preread-bench-") as name:
        folder = Path(name)
        films = written(kind, folder / "films")
        worker = ways.Worker(folder / "worker", f"sqlite:///{folder / 'preread.db'}")
        with worker.running() as pid:
            put(films, worker.root)
            ways.until(lambda: worker.done() >= _WARM_FILMS, _WITHIN_S)
            record = ["py-spy", "record", "--subprocesses", "--nonblocking", "--rate", str(_PER_S), "--pid", str(pid)]
            with subprocess.Popen([*record, "--duration", str(int(_WITHIN_S)), "--output", asked.svg]) as recorder:
                ways.until(lambda: worker.done() == len(films), _WITHIN_S)
                recorder.send_signal(signal.SIGINT)
        worker.close()
    # what py-spy was called with, and the worker with, names folders of this machine
    text = asked.svg.read_text(encoding="utf-8")
    text = re.sub(r"py-spy record[^<]*", "preread run, films of 224 px", text)
    asked.svg.write_text(re.sub(r"process (\d+):[^<(]*", r"process \1 ", text), encoding="utf-8")


if __name__ == "__main__":
    main()
