"""A released version's database under this tree's code: upgraded, worked on, and taken back to the release.

Each step is a command that an administrator or a doctor types; both versions run as installed programs.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest
from sqlalchemy import Connection, create_engine, inspect

from deploy.tags import Release
from preread_training.data import phantoms
from tests.support import releases
from tests.support.ports import PortReservations
from tests.support.releases import Preread

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.releases

WITHIN_S = 120.0
Rows = dict[str, tuple[tuple[str, ...], Counter[str]]]
Shown = dict[str, list[dict[str, Any]]]
PASSWORD = "nine grey herons over the weir\n"
SETTINGS = """slots = 1
scan_interval_s = 1.0
settle_s = 0.1
deadline_s = 600.0
[[roots]]
path = "inbox"
population = "children-1-5y"
"""
# what a setting that is unset by default may hold
SAMPLES = {
    "alarm_mail_from": "preread@example.org",
    "alarm_mail_server": "smtp://mail.example.org:25",
    "alarm_mail_to": "it@example.org, radiology@example.org",
    "alarm_webhook": "https://chat.example.org/hooks/preread",
    "audit_key_file": "kept/audit.key",
    "bundle": "pneumonia-children",
    "bundle_dir": "kept/bundles",
    "forgotten_file": "kept/forgotten",
    "health_hosts": "xray-desk-1, 10.0.0.5",
    "health_listen": "127.0.0.1:8321",
    "log_json": "true",
    "pacs_url": "https://pacs.example.org/view?study={study_instance_uid}",
    "preview_dir": "kept/previews",
    "roots": "inbox",
    "web_proxy": "127.0.0.1",
    "web_tls_cert": "cert.pem",
    "web_tls_key": "key.pem",
}
# Tables to which an upgrade adds rows: the entry that the audit trail has a key, and the key's identity.
GROWING = {"audit", "secret"}
# Records that a person reads, by the commands that print them in both versions.
VIEWS = (
    ("results", "--limit", "0"),
    ("quarantine", "list"),
    ("review", "list", "--all", "--limit", "1000"),
    ("review", "export"),
    ("stats",),
)
PASSING = {"waited_s"}  # counted until now


# ---------------------------------------------------------------------- a site


@dataclass
class Site:
    """A folder with settings, a watched folder and a database, and both versions of the program.

    Attributes:
        url: SQLAlchemy URL of its database.
        old: the release's program.
        new: this tree's program, with the same settings.
    """

    release: Release
    folder: Path
    url: str
    old: Preread
    new: Preread

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    def at(self, url: str) -> Site:
        """Return the same site with another database."""
        return dataclasses.replace(
            self,
            url=url,
            old=dataclasses.replace(self.old, environment={**self.old.environment, "PREREAD_DATABASE_URL": url}),
            new=dataclasses.replace(self.new, environment={**self.new.environment, "PREREAD_DATABASE_URL": url}),
        )

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        engine = create_engine(self.url)
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    def query(self, statement: str) -> list[Any]:
        with self.connected() as connection:
            return list(connection.exec_driver_sql(statement))

    def states(self) -> Counter[str]:
        """Count the files of each state; one that was purged counts as ignored."""
        return Counter(dict(self.query("SELECT state, count(*) FROM file GROUP BY state")))

    def state(self, path: str) -> str | None:
        """Return the state of the newest version of a path."""
        found = self.query(f"SELECT state FROM file WHERE newest AND path_text = '{path}'")
        return found[0][0] if found else None

    def revision(self) -> str:
        return str(self.query("SELECT version_num FROM alembic_version")[0][0])

    def rows(self, before: Rows | None = None) -> Rows:
        """Return every table's columns and rows, a row as text.

        Args:
            before: only the tables and columns that stand there.
        """
        found: Rows = {}
        with self.connected() as connection:
            inspector, quote = inspect(connection), connection.dialect.identifier_preparer.quote
            columns = (
                {
                    name: tuple(one["name"] for one in inspector.get_columns(name))
                    for name in inspector.get_table_names()
                }
                if before is None
                else {name: names for name, (names, _) in before.items()}
            )
            for table, names in columns.items():
                listed = connection.exec_driver_sql(f"SELECT {', '.join(map(quote, names))} FROM {quote(table)}")
                found[table] = (names, Counter(repr(tuple(row)) for row in listed))
        return found


@pytest.fixture(scope="module")
def program_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Release], Path]:
    """Return the installed command of a release; each is built once."""
    return functools.cache(lambda release: releases.install(release, tmp_path_factory.mktemp("release")))


TRIED = [(releases.releases()[-1], kind) for kind in ("sqlite", "postgres")]
if releases.commits_are_here():
    TRIED += [(release, "sqlite") for release in releases.upgraded_from()[:-1]]


@pytest.fixture(params=TRIED, ids=lambda tried: f"{tried[0].version}-{tried[1]}")
def site(
    request: pytest.FixtureRequest, program_of: Callable[[Release], Path], tmp_path: Path
) -> Iterator[Callable[[], Site]]:
    """Return a function that makes an empty database of one kind for a release, all at one place."""
    release, kind = request.param
    (tmp_path / "inbox").mkdir()
    (tmp_path / "preread.toml").write_text(SETTINGS, encoding="utf-8")
    made: list[str] = []
    beside: dict[str, str] = {}
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        beside = {
            "PATH": f"{server.programs}{os.pathsep}{os.environ['PATH']}",  # an older pg_dump refuses the server
            "PREREAD_PREVIEW_DIR": "previews",
            "PREREAD_FORGOTTEN_FILE": "forgotten",
            "PREREAD_AUDIT_KEY_FILE": "audit.key",
        }

    def make() -> Site:
        if kind == "postgres":
            made.append(server.create())
            url = server.url(made[-1])
        else:
            url = f"sqlite:///{tmp_path / 'preread.db'}"
        old = Preread(program_of(release), tmp_path, beside)
        return Site(release, tmp_path, url, old, Preread.of_this_tree(tmp_path, beside)).at(url)

    yield make
    for name in made:
        server.drop(name)


def views(program: Preread) -> Shown:
    """Return what the commands of ``VIEWS`` print."""
    with ThreadPoolExecutor(2) as pool:
        printed = pool.map(lambda view: program.records(*view), VIEWS)
        return {" ".join(view): records for view, records in zip(VIEWS, printed, strict=True)}


def lacks(new: object, old: object, where: str) -> Iterator[str]:
    """Yield where a record of the newer version is not what the older one printed; it may have more fields."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            if key not in PASSING:
                yield from lacks(new[key], value, f"{where}.{key}") if key in new else [f"{where}.{key} is gone"]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (mine, theirs) in enumerate(zip(new, old, strict=True)):
            yield from lacks(mine, theirs, f"{where}[{number}]")
    elif new != old:
        yield f"{where}: {old!r} became {new!r}"


# ---------------------------------------------------------------------- what the release does

WAITING = [f"waiting-{number}.dcm" for number in range(4)]
# What a worker makes of the backlog; the file without bytes is quarantined where a run ends.
ENDED = Counter(done=26, quarantined=4, ignored=2, superseded=1, vanished=1, missed=1)


def image(seed: int, **elements: object) -> bytes:
    return phantoms.to_dicom(phantoms.draw_chest(seed), phantoms.Encoding(), seed, **elements)


def image_that_ends_in_zeros(seed: int) -> bytes:
    """Return an image that a worker reads a second time after a minute: it may have been incomplete."""
    pixels = phantoms.draw_chest(seed)
    pixels[-128:] = 0
    return phantoms.to_dicom(pixels, phantoms.Encoding(), seed)


def sign(site: Site, program: Preread, file_id: int, verdict: str, *more: str) -> int:
    """Sign a review as the reader ``ann`` and return its number."""
    program.call("review", "sign", str(file_id), "--reader", "ann", "--verdict", verdict, *more, stdin=PASSWORD)
    return int(site.query("SELECT max(id) FROM reading")[0][0])


def answers_in(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the results that are an answer, by path: of a path's versions the newest."""
    found = (one for one in results if one["outcome"] == "assessed")
    return {one["path"]: one for one in sorted(found, key=lambda one: one["id"])}


def assessed(program: Preread) -> dict[str, dict[str, Any]]:
    """Return the answers that a program shows, by path."""
    return answers_in(program.records("results", "--limit", "0"))


def fill(site: Site, eventually: Callable[..., None]) -> str:
    """Let the release work: results, refusals, quarantined files, reviews, a purge, and a worker killed at work.

    Returns:
        The token of a program that uses the API.
    """
    old, inbox = site.old, site.inbox
    phantoms.write_examples(inbox)
    truncated = image(70)
    for name, content in {
        "letter.dcm": b"a letter",
        "truncated.dcm": truncated[: len(truncated) // 2],
        "empty.png": b"",
        "Thumbs.db": b"of a desktop",
        "purged.dcm": image(71, PatientID="P-71", StudyInstanceUID="2.25.71"),
        "replaced.dcm": image(72),
        "removed.dcm": image(73),
    }.items():
        (inbox / name).write_bytes(content)
    old.call("db", "upgrade")
    old.call("users", "add", "ann", "--role", "reader", stdin=PASSWORD)
    token = old.call("users", "add", "pacs", "--role", "service").stdout.strip()
    old.call("run", "--once")
    assert site.states() == {"done": 24, "quarantined": 3, "ignored": 1}

    answers = assessed(old)
    first = sign(site, old, answers["phantom-explicit.dcm"]["id"], "rejected", "--finding", "pneumonia=present")
    corrects = ("--corrects", str(first), "--finding", "pneumonia=absent", "--comment", "Erkältung, λ < 1")
    sign(site, old, answers["phantom-explicit.dcm"]["id"], "accepted", *corrects)
    old.call("purge", "--patient", "-", "--yes", stdin="P-71\n")
    crash(site, eventually)
    return token


def crash(site: Site, eventually: Callable[..., None]) -> None:
    """Kill a worker of the release, and its inference process, while there are files of every state."""
    inbox = site.inbox
    with site.old.running("run", log=site.folder / "killed.log") as worker:
        (inbox / "ends-in-zeros.dcm").write_bytes(image_that_ends_in_zeros(80))
        eventually(lambda: site.state("ends-in-zeros.dcm") == "retry", WITHIN_S)
        (inference,) = releases.children(worker.pid)
        os.kill(inference, signal.SIGSTOP)
        for number, name in enumerate(WAITING):
            (inbox / name).write_bytes(image(81 + number))
        (inbox / "replaced.dcm").write_bytes(image(90))
        (inbox / "not-yet-written.png").touch()
        eventually(lambda: site.states()["ready"] + site.states()["claimed"] == 5, WITHIN_S)
        for path in ("removed.dcm", next(name for name in WAITING if site.state(name) == "ready")):
            (inbox / path).unlink()
        eventually(lambda: site.states()["vanished"] and site.states()["missed"], WITHIN_S)
    assert site.states() == {
        "done": 21, "quarantined": 3, "ignored": 2, "retry": 1, "claimed": 1, "ready": 3, "settling": 1,
        "superseded": 1, "vanished": 1, "missed": 1,
    }  # fmt: skip


# ---------------------------------------------------------------------- the upgrade and the way back


def test_a_release_is_upgraded_works_on_and_is_taken_back(
    site: Callable[[], Site], ports: PortReservations, eventually: Callable[..., None]
) -> None:
    here = site()
    token = fill(here, eventually)
    old, new, backup = here.old, here.new, here.folder / "before.backup"
    shown, rows, revision = views(old), here.rows(), here.revision()

    new.call("db", "upgrade", "--backup", str(backup))
    assert here.revision() == releases.own_revision()
    assert backup.exists() == (revision != here.revision()), "a backup is taken before a change of schema"
    assert_kept(rows, here.rows(rows))
    # what was read before has no header, and nobody knows by which of its dates it is sorted
    assert with_header(here) == []
    assert here.query("SELECT count(*) FROM file WHERE acquired_from IS NOT NULL")[0][0] == 0
    assert list(lacks(views(new), shown, "")) == []
    counts = new.records("status", ends=(2,))[0]["counts"]
    assert {state: count for state, count in counts.items() if count} == here.states(), "no worker is at work yet"

    ask(here, token, answers_in(shown["results --limit 0"])["phantom-rle.dcm"], ports.reserve(), eventually)
    finish(here, shown)
    back = take_back(site, here, backup)
    work_on(back, shown)


def assert_kept(before: Rows, after: Rows) -> None:
    """Fail if a row is not what it was, or if one came where none should."""
    for table, (_, rows) in before.items():
        lost, new = rows - after[table][1], after[table][1] - rows
        if table != "alembic_version":
            assert not lost, f"{table} lost {list(lost)[:3]}"
            assert table in GROWING or not new, f"{table} gained {list(new)[:3]}"


def ask(site: Site, token: str, result: dict[str, Any], port: int, eventually: Callable[..., None]) -> None:
    """Ask this tree's API, with the token that the release gave out, for one of its results and the preview."""

    def get(path: str) -> bytes:
        url = f"http://127.0.0.1:{port}/api/v1/results/{result['id']}{path}"
        with urlopen(Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=WITHIN_S) as answer:
            body: bytes = answer.read()
            return body

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return False
        return True

    with site.new.running("web", "--port", str(port), log=site.folder / "web.log"):
        eventually(listens, WITHIN_S)
        assert json.loads(get(""))["sha256"] == result["sha256"]
        assert get("/preview").startswith(b"\x89PNG")


def finish(site: Site, shown: Shown) -> None:
    """Let this tree's worker end what the release left, and read what it then holds."""
    new, answered = site.new, answers_in(shown["results --limit 0"])
    new.call("requeue", "--state", "retry", "--yes")  # else it is due in a minute
    new.call("run", "--once")
    assert site.states() == ENDED
    now = assessed(new)
    came = {"ends-in-zeros.dcm", "replaced.dcm", *(name for name in WAITING if (site.inbox / name).exists())}
    assert now.keys() - answered.keys() == came
    assert list(lacks({path: now[path] for path in answered}, answered, "")) == []
    assert set(with_header(site)) == came
    new.call("reconcile")
    new.call("audit", "verify")
    sign(site, new, now["ends-in-zeros.dcm"]["id"], "accepted", "--finding", "pneumonia=absent")


def with_header(site: Site) -> list[str]:
    """Return the paths of the images whose study header is kept."""
    kept = site.query("SELECT path_text FROM file JOIN study_header ON study_header.file_id = file.id")
    return [row[0] for row in kept]


def take_back(make: Callable[[], Site], site: Site, backup: Path) -> Site:
    """Go back to the release as deploy/RUNBOOK.md says, and return the site that it works on from then on."""
    if site.old.call("db", "check", ends=(0, 2)).returncode == 0:
        return site
    site.new.call("db", "downgrade", "--no-backup")
    if site.old.call("db", "check", ends=(0, 2)).returncode == 0:
        return site
    if (file := site.folder / "preread.db").exists():
        for lies in site.folder.glob("preread.db*"):
            if lies.name.removeprefix(file.name) in {"", "-wal", "-shm"}:
                lies.rename(site.folder / f"newer{lies.name}")
    restored = make()
    restored.old.call("db", "restore", str(backup))
    return restored


def work_on(site: Site, shown: Shown) -> None:
    """Let the release read everything and go on with it.

    Args:
        shown: what the release printed before the upgrade.
    """
    old, answered = site.old, answers_in(shown["results --limit 0"])
    (site.inbox / "later.dcm").write_bytes(image(99))
    if site.states()["retry"]:
        old.call("requeue", "--state", "retry", "--yes")
    old.call("run", "--once")
    assert site.states() == ENDED + Counter(done=1)
    now = assessed(old)
    assert {path: now[path] for path in answered} == answered
    sign(site, old, now["later.dcm"]["id"], "accepted", "--finding", "pneumonia=absent")
    signed = old.records("review", "export")
    assert signed[: len(shown["review export"])] == shown["review export"]
    assert signed[-1]["film"] == now["later.dcm"]["id"]
    old.call("reconcile")
    old.call("audit", "verify")


# ---------------------------------------------------------------------- settings


def settings_of(release: Release) -> dict[str, str]:
    """Return every setting of a release with a value: its default, else one of ``SAMPLES``."""
    page = releases.read_file(release, "docs/reference/settings.md", "docs/settings.md")
    rows = re.findall(r"^\| `PREREAD_\w+` \| `(\w+)` \| (?:`([^`]*)`|unset) \|", page, re.MULTILINE)
    assert len(rows) > 30
    return {name: default or SAMPLES[name] for name, default in rows}


def test_settings_of_the_release_are_understood(program_of: Callable[[Release], Path], tmp_path: Path) -> None:
    """All of them in a file, and all in the environment."""
    release = releases.releases()[-1]
    values = settings_of(release)
    (tmp_path / "inbox").mkdir()
    plain = re.compile(r"[0-9]+(?:[.][0-9]+)?|[Tt]rue|False")
    lines = [
        f"{name} = {value.lower() if plain.fullmatch(value) else json.dumps(value)}"
        for name, value in values.items()
        if name != "roots"
    ]
    (tmp_path / "all.toml").write_text(
        "\n".join([*lines, "[[roots]]", 'path = "inbox"', "poll = true"]), encoding="utf-8"
    )
    environment = {f"PREREAD_{name.upper()}": value for name, value in values.items()}
    url = {"PREREAD_DATABASE_URL": f"sqlite:///{tmp_path / 'preread.db'}"}
    for program in (program_of(release), Preread.of_this_tree(tmp_path, {}).command):
        Preread(program, tmp_path, url).call("db", "upgrade")
        Preread(program, tmp_path, {}).call("--config", "all.toml", "db", "check")
        Preread(program, tmp_path, environment).call("db", "check")
        broken = Preread(program, tmp_path, {**environment, "PREREAD_SLOTS": "0"}).call("db", "check", ends=(2,))
        assert "PREREAD_SLOTS" in broken.stderr, "settings are read by this command"
