"""A whole worker with stub slots: ``run_worker.py DATABASE_URL BUNDLE INFERENCES OPTIONS_JSON ROOT...``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from worker import bundle, daemon, observability, store
from worker.domain import Population, RootSpec


def main() -> int:
    database_url, bundle_folder, inferences, options, *roots = sys.argv[1:]
    observability.set_up(level="info", json_lines=True)
    engine = store.open_engine(database_url)
    settings = json.loads(options)
    pattern = settings.pop("path_pattern", None)
    poll = settings.pop("poll", None)
    specs = [RootSpec(Path(os.fsdecode(root)), Population.CHILDREN_1_5Y, pattern, poll) for root in roots]
    command = (sys.executable, "-P", str(Path(__file__).with_name("stub_slot.py")), inferences)
    try:
        return daemon.run(
            engine, bundle.load(Path(bundle_folder)), specs, daemon.RunOptions(**settings), slot_command=command
        )
    finally:
        engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
