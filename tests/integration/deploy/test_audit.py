"""The audit of known vulnerabilities, by pip-audit itself against a service of ours, and against none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import audit, licences
from tests.support.paths import REPOSITORY
from tests.support.ports import PortReservations

WORKER = len(licences.pinned())
FLEET = len(licences.pinned(licences.FLEET)) - WORKER


@contextmanager
def service(holes: dict[str, str]) -> Iterator[str]:
    """A service that speaks as OSV does and knows one vulnerability of each of these packages, mended in a version."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
            body = json.dumps({"vulns": [self.hole(name)]} if name in holes else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @staticmethod
        def hole(name: str) -> dict[str, object]:
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": holes[name]}]}]
            package = {"name": name, "ecosystem": "PyPI"}
            affected = [{"package": package, "ranges": ranges}]
            return {"id": f"TEST-{name}", "summary": "", "modified": "2026-01-01T00:00:00Z", "affected": affected}

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.audit", "--cache-dir", str(tmp_path), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True, env=environment)


def test_all_were_asked_about(tmp_path: Path) -> None:
    with service({}) as url:
        done = run(tmp_path, "-s", "osv", "--osv-url", url)
    said = f"asked about all {WORKER} and {FLEET} of a fleet: no known vulnerabilities\n"
    assert (done.returncode, done.stdout) == (0, said)


def test_what_is_known_is_named(tmp_path: Path) -> None:
    with service({"numpy": "999"}) as url:
        done = run(tmp_path, "-s", "osv", "--osv-url", url)
    assert done.returncode == audit.KNOWN
    first, last = done.stdout.splitlines()
    assert first.startswith("numpy ")
    assert first.endswith(": TEST-numpy, mended in 999")
    assert last == f"asked about all {WORKER} and {FLEET} of a fleet: 1 known vulnerability"


def test_nobody_answers(tmp_path: Path, ports: PortReservations) -> None:
    done = run(tmp_path, "-s", "osv", "--osv-url", f"http://127.0.0.1:{ports.reserve()}/")
    said = f"not asked: {WORKER} of {WORKER}, and {FLEET} of {FLEET} of a fleet\n"
    assert (done.returncode, done.stdout) == (audit.NOT_ASKED, said)
    assert done.stderr.count("\n") == 1


def test_a_program_that_fails_otherwise_is_no_silence_of_the_network(tmp_path: Path) -> None:
    done = run(tmp_path, "--no-such-option")
    assert (done.returncode, done.stdout) == (audit.BROKEN, "")
    assert "--no-such-option" in done.stderr


NAMES = st.sampled_from(["alembic", "numpy", "pillow", "rich", "typer"])
HOLE = st.fixed_dictionaries({"id": st.just("TEST-1"), "fix_versions": st.lists(st.just("9"), max_size=1)})
ASKED = st.fixed_dictionaries({"version": st.just("1"), "vulns": st.lists(HOLE, max_size=2)})
SKIPPED = st.fixed_dictionaries({"skip_reason": st.just("not found")})


@given(st.sets(NAMES), st.sets(NAMES), st.dictionaries(NAMES, ASKED | SKIPPED))
def test_zero_means_that_each_package_was_asked_about(
    worker: set[str], fleet: set[str], entries: dict[str, dict[str, object]]
) -> None:
    report = {"dependencies": [{"name": name, **entry} for name, entry in entries.items()]}
    outcome = audit.verdict(report, sorted(worker), sorted(fleet))
    unasked = [{name for name in names if "vulns" not in entries.get(name, {})} for names in (worker, fleet)]
    holes = any(entry.get("vulns") for entry in entries.values())
    assert outcome.exit_code == (audit.KNOWN if holes else audit.NOT_ASKED if any(unasked) else 0)
    said = f"not asked: {len(unasked[0])} of {len(worker)}, and {len(unasked[1])} of {len(fleet)} of a fleet"
    assert (outcome.lines()[-1] == said) == any(map(bool, unasked))


@pytest.mark.parametrize("flag, may", [("--offline-audit", "3"), ("--strict", "0"), (None, "3")])
def test_only_a_flag_lets_ci_pass_what_was_not_asked(flag: str | None, may: str) -> None:
    """The head of ``.ci/run`` up to its first step, run as it stands."""
    head = (REPOSITORY / ".ci" / "run").read_text().split("\nexport CI=true")[0].replace('cd "$(dirname "$0")/.."', "")
    script = f'{head}\necho "$audit_may"'
    done = subprocess.run(["bash", "-c", script, "run", *([flag] if flag else [])], capture_output=True, check=True)
    assert done.stdout.decode().strip() == may


def test_the_public_workflow_is_strict() -> None:
    assert "bash .ci/run --strict " in (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()
