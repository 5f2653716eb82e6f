"""A whole worker with stub slots: ``run_worker.py DATABASE_URL BUNDLE INFERENCES OPTIONS_JSON ROOT...``."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine

from preread.core import log
from preread.core.systemd import Notifier
from preread.core.types import Population, RootSpec
from preread.db.engine import open_engine
from preread.model import bundles
from preread.monitoring.endpoint import monitored
from preread.runner import outcomes, service
from preread.runner.loop import Environment, RunOptions
from preread.share import root_thread
from tests.programs import bad_share


def main(prepare: Callable[[Engine], None] = lambda _engine: None) -> int:
    """``prepare``: gets the engine before anything is done with it; ``slot`` in the options: another slot program."""
    database_url, bundle_folder, inferences, options, *roots = sys.argv[1:]
    log.configure_logging(level="info", json_lines=True)
    engine = open_engine(database_url)
    prepare(engine)
    settings = json.loads(options)
    pattern = settings.pop("path_pattern", None)
    poll = settings.pop("poll", None)
    if settings.pop("unprivileged", False):  # root opens every door: capset (version 3) without any capability
        ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
    if (limit_bytes := settings.pop("limit_bytes", None)) is not None:  # no file can grow beyond
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
    if settings.pop("bad_share", False):
        bad_share.install([os.fsencode(root) for root in roots])
    root_thread.STALL_S = settings.pop("stall_s", root_thread.STALL_S)
    outcomes.TAIL_ZERO_SETTLE_S = settings.pop("tail_zero_settle_s", outcomes.TAIL_ZERO_SETTLE_S)
    if (preview_dir := settings.pop("preview_dir", None)) is not None:
        settings["preview_dir"] = Path(preview_dir)
    shadow = settings.pop("shadow", None)
    since = datetime(2000, 1, 1, tzinfo=UTC)
    specs = [RootSpec(Path(os.fsdecode(root)), Population.CHILDREN_1_5Y, pattern, poll) for root in roots]
    slot = settings.pop("slot", ["stub_slot.py"])
    command = (sys.executable, "-P", str(Path(__file__).with_name(slot[0])), inferences, *slot[1:])
    listen = settings.pop("health_listen", None)
    run_options = RunOptions(**settings)
    watched = [os.fsencode(os.path.abspath(spec.path)) for spec in specs]
    try:
        with monitored(listen, engine, roots=watched, scan_interval_s=run_options.scan_interval_s) as counters:
            return service.run_service(
                engine,
                service.BundleChoice(
                    bundles.load_bundle(Path(bundle_folder)),
                    None if shadow is None else (bundles.load_bundle(Path(shadow)), since),
                ),
                specs,
                run_options,
                Environment(command, Notifier.from_environment(os.environ), counters),
            )
    finally:
        engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
