"""Mail and webhook: told once, tried again within bounds, and never anything of a film or a folder."""

from __future__ import annotations

import asyncio
import http.server
import inspect
import json
import os
import re
import signal
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_string
from pathlib import Path
from typing import Any, Self

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from sqlalchemy import Engine

from preread.cli import main
from preread.cli.alarm import _page
from preread.core import settings
from preread.core.errors import AlarmNotSent, DatabaseAway, SettingsError, ShareDown
from preread.core.settings import Settings
from preread.db.engine import open_engine
from preread.ledger import archives
from preread.monitoring import alarm, health
from preread.monitoring.alarm import TRIES_AT_MOST, Mail, Message, Watch, Webhook, describe
from preread.monitoring.health import Health, Level, Problem
from tests.support.paths import REPOSITORY

AFTER_S = 60.0
NEWS = Message(("share_down",), ("missed", "share_down"), "desk", datetime(2026, 3, 1, tzinfo=UTC))


class MailSink(socketserver.ThreadingTCPServer):
    """Takes mail, or answers every recipient with ``refuses``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Smtp)
        self.mails: list[str] = []
        self.refuses: bytes | None = None


class _Smtp(socketserver.StreamRequestHandler):
    server: MailSink

    def handle(self) -> None:
        self.wfile.write(b"220 sink\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"RCPT" and self.server.refuses is not None:
                self.wfile.write(self.server.refuses)
            elif word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line)
                self.server.mails.append(b"".join(lines).decode())
                self.wfile.write(b"250 taken\r\n")
            elif word == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 sink\r\n")


class HookSink(http.server.ThreadingHTTPServer):
    """Takes posts, or answers with ``status``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.posts: list[Any] = []
        self.status = 204


class _Hook(http.server.BaseHTTPRequestHandler):
    server: HookSink

    def do_POST(self) -> None:
        self.server.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _running(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def mail() -> Iterator[MailSink]:
    with _running(MailSink()) as server:
        yield server


@pytest.fixture
def hook() -> Iterator[HookSink]:
    with _running(HookSink()) as server:
        yield server


def address(server: socketserver.BaseServer) -> str:
    return f"127.0.0.1:{server.server_address[1]}"  # type: ignore[index]


# --------------------------------------------------------------------------- the two ways


def test_a_mail_arrives(mail: MailSink) -> None:
    Mail(f"smtp://{address(mail)}", ("a@example.org", "b@example.org"), "preread@example.org").send(NEWS)
    (text,) = mail.mails
    found = message_from_string(text)
    assert found["To"] == "a@example.org, b@example.org"
    assert found["Subject"] == "Preread at desk: CRITICAL share_down"
    assert "missed, share_down" in found.get_payload()
    assert found["Auto-Submitted"] == "auto-generated"


def test_a_webhook_gets_a_record(hook: HookSink) -> None:
    Webhook(f"http://{address(hook)}/x?token=secret").send(NEWS)
    (record,) = hook.posts
    assert record["status"] == "critical"
    assert (record["appeared"], record["present"]) == (["share_down"], ["missed", "share_down"])
    assert record["text"] == (
        "Preread on desk needs somebody: the share cannot be listed (share_down). "
        "`preread status` on that machine says more."
    )


@pytest.mark.parametrize(
    "host, proxy, told",
    [
        ("127.0.0.1", None, ""),
        ("localhost", None, ""),
        ("0.0.0.0", None, ""),
        ("::", None, ""),
        ("10.0.0.5", None, "http://10.0.0.5:8350/"),
        ("fd00::5", None, "http://[fd00::5]:8350/"),
        ("xray.example.org", None, "http://xray.example.org:8350/"),
        ("10.0.0.5", "10.0.0.1", ""),
    ],
)
def test_the_page_is_named_where_others_can_open_it(host: str, proxy: str | None, told: str) -> None:
    page = _page(Settings(web_host=host, web_proxy=proxy))
    assert page == told
    news = replace(NEWS, page=page)
    assert (f"Look at {told}." in news.to_json()["text"]) is bool(told)
    assert ("The page: " in news.text) is bool(told)


def test_every_critical_problem_is_said_in_words() -> None:
    text = inspect.getsource(health) + inspect.getsource(archives)
    codes = set(re.findall(r'Level\.CRITICAL, "(\w+)"', text)) | {ShareDown.code, DatabaseAway.code}
    assert len(codes) > 8
    assert "something is critical" not in {describe(code) for code in codes}
    assert describe("none such") == "something is critical"


def test_a_mail_server_that_refuses_is_named_without_its_words(mail: MailSink) -> None:
    mail.refuses = b"550 no such user a@example.org\r\n"
    with pytest.raises(AlarmNotSent, match="SMTPRecipientsRefused") as failed:
        Mail(f"smtp://{address(mail)}", ("a@example.org",), "b@example.org").send(NEWS)
    assert "@" not in str(failed.value)


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_a_webhook_that_does_not_take_it_is_told_and_nowhere_else_is_asked(hook: HookSink, status: int) -> None:
    hook.status = status
    with pytest.raises(AlarmNotSent, match=str(status)):
        Webhook(f"http://{address(hook)}/x").send(NEWS)
    assert len(hook.posts) == 1


@pytest.mark.parametrize(
    "way",
    [
        lambda where: Mail(f"smtp://{where}", ("a@x.org",), "b@x.org"),
        lambda where: Mail(f"smtps://me:secret@{where}", ("a@x.org",), "b@x.org"),
        lambda where: Mail(f"starttls://me:secret@{where}", ("a@x.org",), "b@x.org"),
        lambda where: Webhook(f"http://{where}/secret"),
        lambda where: Webhook(f"https://{where}/secret"),
    ],
    ids=["smtp", "smtps", "starttls", "http", "https"],
)
def test_nobody_there_is_said_without_a_secret(mail: MailSink, way: Callable[[str], alarm.Channel]) -> None:
    where = address(mail)
    mail.server_close()
    with pytest.raises(AlarmNotSent) as failed:
        way(where).send(NEWS)
    assert "secret" not in str(failed.value)


def test_a_server_without_tls_gets_no_password(mail: MailSink) -> None:
    with pytest.raises(AlarmNotSent, match="SMTPNotSupportedError"):
        Mail(f"starttls://me:secret@{address(mail)}", ("a@x.org",), "b@x.org").send(NEWS)
    assert mail.mails == []


# --------------------------------------------------------------------------- mail over TLS


class MailServer:
    """A real mail server, on a thread of its own: STARTTLS, or TLS from the first byte."""

    def __init__(self, certificate: tuple[Path, Path], scheme: str) -> None:
        self.mails: list[Envelope] = []
        self.sign_ins: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self._scheme = scheme
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(*certificate)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def _serve(self) -> SMTP:
        self.connections += 1
        return SMTP(
            self,
            tls_context=self._tls if self._scheme == "starttls" else None,
            require_starttls=self._scheme == "starttls",
            auth_require_tls=self._scheme == "starttls",  # a connection that began with TLS is none that turned to it
            auth_required=True,
            authenticator=self._authenticate,
            loop=self._loop,
        )

    def _authenticate(self, _server: SMTP, _session: object, _envelope: object, _kind: str, given: Any) -> AuthResult:
        self.sign_ins.append((given.login, given.password))
        return AuthResult(success=(given.login, given.password) == (b"me@desk", b"se/cret"), handled=False)

    async def handle_DATA(self, _server: SMTP, _session: object, envelope: Envelope) -> str:
        self.mails.append(envelope)
        return "250 taken"

    def url(self, host: str = "localhost", password: str = "se%2Fcret", scheme: str = "") -> str:
        return f"{scheme or self._scheme}://me%40desk:{password}@{host}:{self.port}"

    def __enter__(self) -> Self:
        implicit = self._tls if self._scheme == "smtps" else None
        listening = self._loop.create_server(self._serve, "127.0.0.1", 0, ssl=implicit)
        self._server = self._loop.run_until_complete(listening)
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def close(self) -> None:
        async def end() -> None:
            self._server.close()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(60.0)


@pytest.fixture(params=["starttls", "smtps"])
def tls_mail(request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> Iterator[MailServer]:
    with MailServer(certificate, request.param) as server:
        yield server


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a hospital's own authority would be."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))


def sending(url: str) -> Mail:
    return Mail(url, ("a@example.org",), "b@example.org")


# with TLS from the first byte the server does not know of it, and warns that passwords might travel in the clear
over_tls = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")


@over_tls
@pytest.mark.usefixtures("trusted")
def test_a_mail_arrives_over_tls_signed_in(tls_mail: MailServer) -> None:
    sending(tls_mail.url()).send(NEWS)
    (envelope,) = tls_mail.mails
    assert envelope.rcpt_tos == ["a@example.org"]
    assert isinstance(envelope.content, bytes)
    assert b"CRITICAL share_down" in envelope.content
    assert tls_mail.sign_ins == [(b"me@desk", b"se/cret")]


@over_tls
@pytest.mark.parametrize("host, said", [("localhost", "self-signed"), ("127.0.0.1", "mismatch")])
def test_a_certificate_that_is_not_trusted_gets_neither_password_nor_mail(
    tls_mail: MailServer, host: str, said: str, request: pytest.FixtureRequest
) -> None:
    if host == "127.0.0.1":  # trusted, and another's
        request.getfixturevalue("trusted")
    with pytest.raises(AlarmNotSent, match=f"SSLCertVerificationError: its certificate is not trusted.*{said}"):
        sending(tls_mail.url(host)).send(NEWS)
    assert (tls_mail.mails, tls_mail.sign_ins, tls_mail.connections > 0) == ([], [], True)


@pytest.mark.usefixtures("trusted")
def test_a_refused_password_and_the_wrong_port_are_named(certificate: tuple[Path, Path]) -> None:
    with MailServer(certificate, "starttls") as server:
        with pytest.raises(AlarmNotSent, match=r"SMTPAuthenticationError: it refuses .* \(535\)") as failed:
            sending(server.url(password="wrong")).send(NEWS)
        assert "wrong" not in str(failed.value)
        with pytest.raises(AlarmNotSent, match="SSLError: no TLS connection came about"):
            sending(server.url(scheme="smtps")).send(NEWS)
        assert server.mails == []


@over_tls
@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("password", ["wrong", "se%2Fcret"])
def test_a_server_that_refuses_or_is_away_is_tried_a_bounded_number_of_times(
    certificate: tuple[Path, Path], password: str, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    with MailServer(certificate, "smtps") as server:
        if password != "wrong":
            server.close()
        way = sending(server.url(password=password))
        desk.watch = Watch([way], site="desk", after_s=AFTER_S, told={}, keep=desk._keep)
        desk.see("share_down", for_s=2 * 86_400.0)
        assert caplog.messages.count("alarm_not_sent") == TRIES_AT_MOST
        assert bool(server.sign_ins) is (password == "wrong")
        assert len(server.sign_ins) % TRIES_AT_MOST == 0
        assert server.mails == []
    whys = {record.error for record in caplog.records if record.message == "alarm_not_sent"}  # type: ignore[attr-defined]
    assert len(whys) == 1
    assert ("SMTPAuthenticationError" in whys.pop()) is (password == "wrong")


# --------------------------------------------------------------------------- when it is told


class Recorder:
    """A channel that keeps what it is given, or fails."""

    name = "mail"

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.fails = False
        self.tries = 0

    def send(self, news: Message) -> None:
        self.tries += 1
        if self.fails:
            raise AlarmNotSent("x")
        self.sent.append(news)


class Desk:
    """A watch, its clock, and what it noted."""

    def __init__(self, told: frozenset[str] = frozenset()) -> None:
        self.way = Recorder()
        self.noted: list[Collection[str]] = []
        self.database_away = False
        self.now = 0.0
        self.watch = Watch([self.way], site="desk", after_s=AFTER_S, told={"mail": told}, keep=self._keep)

    def _keep(self, channel: str, codes: Collection[str]) -> None:
        if self.database_away:
            raise DatabaseAway
        self.noted.append(set(codes))

    def see(self, *codes: str, for_s: float = 3 * AFTER_S) -> list[Message]:
        """Let these problems last, looking every ten seconds; return what was told meanwhile."""
        before = len(self.way.sent)
        found = Health(datetime.now(UTC), tuple(Problem(Level.CRITICAL, code, "/srv/Mustermann") for code in codes))
        end = self.now + for_s
        while self.now < end:
            self.watch.update(found, self.now)
            self.now += 10.0
        return self.way.sent[before:]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_it_is_told_once_and_once_when_it_is_over(desk: Desk) -> None:
    (news,) = desk.see("share_down")
    assert news.appeared == ("share_down",)
    assert desk.see("share_down", for_s=100_000.0) == []
    (over,) = desk.see()
    assert "recovered" in over.subject
    assert desk.see(for_s=100_000.0) == []
    assert desk.noted == [{"share_down"}, set()]


def test_what_passes_is_not_told(desk: Desk) -> None:
    for _ in range(20):
        assert desk.see("stalled", for_s=AFTER_S - 10) == []
        assert desk.see(for_s=AFTER_S - 10) == []


def test_a_new_problem_beside_an_old_one_is_told(desk: Desk) -> None:
    assert len(desk.see("missed")) == 1
    (news,) = desk.see("missed", "share_down")
    assert (news.appeared, news.present) == (("share_down",), ("missed", "share_down"))
    assert desk.see("missed") == []
    assert len(desk.see("missed", "share_down")) == 1, "it had gone, and came back"
    assert len(desk.see()) == 1


def test_warnings_are_told_to_nobody(desk: Desk) -> None:
    found = Health(datetime.now(UTC), (Problem(Level.WARNING, "locked", "x"),))
    for now in range(0, 1000, 10):
        desk.watch.update(found, float(now))
    assert desk.way.tries == 0


def test_what_fails_is_tried_again_ever_more_rarely_and_then_given_up(desk: Desk) -> None:
    desk.way.fails = True
    desk.see("share_down", for_s=7 * 86_400.0)
    assert desk.way.tries == TRIES_AT_MOST
    desk.way.fails = False
    assert desk.see("share_down") == []
    assert len(desk.see("share_down", "missed")) == 1, "other news has tries of its own"


def test_what_was_taken_at_last_is_told_once(desk: Desk) -> None:
    desk.way.fails = True
    desk.see("share_down", for_s=600.0)
    desk.way.fails = False
    assert len(desk.see("share_down", for_s=7200.0)) == 1


def test_an_earlier_process_told_it_already() -> None:
    desk = Desk(told=frozenset({"share_down"}))
    assert desk.see("share_down") == []
    assert len(desk.see()) == 1


def test_a_database_that_is_away_is_told_once_and_noted_when_it_is_back(desk: Desk) -> None:
    desk.database_away = True
    assert len(desk.see("database_away", for_s=3600.0)) == 1
    desk.database_away = False
    assert len(desk.see()) == 1
    assert desk.noted[-1] == set()


def test_one_way_that_fails_does_not_hold_up_the_other(desk: Desk) -> None:
    broken = Recorder()
    broken.name, broken.fails = "webhook", True
    watch = Watch([broken, desk.way], site="desk", after_s=0.0, told={}, keep=desk._keep)
    found = Health(datetime.now(UTC), (Problem(Level.CRITICAL, "missed", "x"),))
    for now in range(0, 300, 10):
        watch.update(found, float(now))
    assert (len(desk.way.sent), broken.tries > 1) == (1, True)


def test_no_message_says_what_a_problem_says(desk: Desk) -> None:
    news = [*desk.see("share_down"), *desk.see()]
    for one in news:
        assert "Mustermann" not in one.text + json.dumps(one.to_json())


def test_what_was_told_stands_in_the_database(engine: Engine) -> None:
    assert alarm.load_notified(engine) == {}
    alarm.save_notified(engine, "mail", {"b", "a"})
    alarm.save_notified(engine, "webhook", ())
    alarm.save_notified(engine, "mail", {"c"})
    assert alarm.load_notified(engine) == {"mail": {"c"}, "webhook": frozenset()}


# --------------------------------------------------------------------------- settings and commands


@pytest.mark.parametrize(
    "name, value",
    [
        ("mail_server", "mail.example.org"),
        ("mail_server", "http://mail.example.org"),
        ("mail_server", "smtp://:25"),
        ("mail_server", "smtp://me:hush@mail.example.org"),
        ("mail_server", "smtp://mail.example.org:99999"),
        ("mail_to", "nobody"),
        ("mail_to", "a@x.org\nBcc: b@x.org"),
        ("mail_from", "a@x.org, b@x.org"),
        ("webhook", "file:///etc/passwd"),
        ("after_s", "-1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"PREREAD_ALARM_{name.upper()}", value)
    with pytest.raises(SettingsError, match=name.upper()) as refused:
        settings.load_settings()
    assert "hush" not in str(refused.value)


def test_the_command_tries_every_way(
    mail: MailSink,
    hook: HookSink,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["alarm", "test"]) == 2
    assert "PREREAD_ALARM_WEBHOOK" in capsys.readouterr().err
    monkeypatch.setenv("PREREAD_ALARM_MAIL_SERVER", f"smtp://{address(mail)}")
    assert main(["alarm", "test"]) == 2  # to whom?
    monkeypatch.setenv("PREREAD_ALARM_MAIL_TO", "a@example.org")
    monkeypatch.setenv("PREREAD_ALARM_WEBHOOK", f"http://{address(hook)}/x")
    assert main(["alarm", "test"]) == 0
    assert "a trial" in mail.mails[0]
    assert hook.posts[0]["status"] == "trial"
    hook.status = 500
    capsys.readouterr()
    assert main(["alarm", "test"]) == 1
    assert "[alarm_not_sent]" in capsys.readouterr().err


def test_a_watch_tells_of_a_worker_that_never_ran_and_a_second_one_does_not_repeat_it(
    hook: HookSink, tmp_path: Path, migrated_sqlite: Path, eventually: Callable[..., None]
) -> None:
    database = tmp_path / "preread.db"
    database.write_bytes(migrated_sqlite.read_bytes())
    url = f"sqlite:///{database}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREREAD_")}
    environment |= {"PREREAD_DATABASE_URL": url, "PREREAD_ALARM_WEBHOOK": f"http://{address(hook)}/x"}
    environment |= {"PREREAD_ALARM_AFTER_S": "0"}
    command = [sys.executable, "-m", "preread", "alarm", "watch"]
    engine = open_engine(url)
    try:
        for log in (tmp_path / "first", tmp_path / "second"):
            with log.open("wb") as stream:
                process = subprocess.Popen(
                    command, env=environment, stderr=stream, stdin=subprocess.DEVNULL, cwd=REPOSITORY
                )
            if log.name == "first":
                eventually(lambda: alarm.load_notified(engine) == {"webhook": {"no_worker"}}, 120.0)
            else:
                eventually(lambda: b"alarm_watching" in (tmp_path / "second").read_bytes(), 120.0)
            process.send_signal(signal.SIGTERM)
            assert process.wait(120.0) == 0
    finally:
        engine.dispose()
    assert [post["appeared"] for post in hook.posts] == [["no_worker"]]
    assert re.search(rb'"event": "alarm_sent"', (tmp_path / "first").read_bytes())
