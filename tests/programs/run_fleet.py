"""A process of the fleet with stub slots: ``run_fleet.py DATABASE_URL BUNDLES INFERENCES OPTIONS_JSON``.

``BUNDLES``: folders with ``:`` between them. Of the options those that ``FleetOptions`` names are its, the rest
``RunOptions``'s.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

from preread.core import log
from preread.db.engine import open_engine
from preread.fleet import worker
from preread.fleet.supervisor import MOST_PROCESSES
from preread.fleet.worker import FleetOptions
from preread.model import bundles
from preread.monitoring.endpoint import monitored
from preread.runner.loop import Environment, RunOptions


def main() -> int:
    database_url, folders, inferences, options = sys.argv[1:]
    log.configure_logging(level="info", json_lines=True)
    engine = open_engine(database_url)
    values = json.loads(options)
    own = {one.name: values.pop(one.name) for one in fields(FleetOptions) if one.name in values}
    slot = values.pop("slot", "stub_slot.py")
    command = (sys.executable, "-P", str(Path(__file__).with_name(slot)), inferences)
    listen = values.pop("health_listen", None)
    run = RunOptions(**values)
    interval_s = run.scan_interval_s
    try:
        with monitored(listen, engine, roots=None, scan_interval_s=interval_s, ports_after=MOST_PROCESSES) as counters:
            return worker.run_fleet_process(
                engine,
                [bundles.load_bundle(Path(folder)) for folder in folders.split(":")],
                run,
                FleetOptions(**own),
                Environment(command, counters=counters),
            )
    finally:
        engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
