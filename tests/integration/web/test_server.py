"""Listening for real: TLS by a certificate of one's own, a proxy in front, the system log."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.testclient import TestClient

from preread.db.engine import sqlite_path
from preread.review import audit
from preread.web.app import create_app
from preread.web.context import WebOptions
from tests.support.page import PASSWORD, Films, served
from tests.support.ports import PortReservations


def sign_in(connection: http.client.HTTPConnection, password: str, **headers: str) -> http.client.HTTPResponse:
    """Fetch the form and send it."""
    connection.request("GET", "/sign-in")
    form = connection.getresponse()
    page, cookie = form.read().decode(), str(form.headers["set-cookie"]).split(";")[0]
    door = re.search(r'name="door" value="([^"]+)"', page)
    assert door
    body = urlencode({"door": door[1], "to": "/", "name": "ada", "password": password})
    sent = {"content-type": "application/x-www-form-urlencoded", "cookie": cookie, **headers}
    connection.request("POST", "/sign-in", body, sent)
    answer = connection.getresponse()
    answer.read()
    return answer


def test_the_page_as_a_process_with_tls(
    films_here: Films,
    certificate: tuple[Path, Path],
    eventually: Callable[..., None],
    ports: PortReservations,
) -> None:
    films_here.person("ada")
    port = ports.reserve()
    environment = {
        **os.environ,
        "PREREAD_DATABASE_URL": f"sqlite:///{sqlite_path(films_here.engine)}",
        "PREREAD_WEB_TLS_CERT": str(certificate[0]),
        "PREREAD_WEB_TLS_KEY": str(certificate[1]),
    }
    # an address that others can reach, which is refused without a certificate
    command = [sys.executable, "-m", "preread", "web", "--host", "0.0.0.0", "--port", str(port)]
    process = subprocess.Popen(
        command, env=environment, cwd=films_here.preview_dir.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        eventually(lambda: process.poll() is not None or _listens(port))
        trusting = ssl.create_default_context(cafile=certificate[0])
        with closing(http.client.HTTPSConnection("localhost", port, context=trusting)) as connection:
            answer = sign_in(connection, PASSWORD)
        assert (answer.status, answer.headers["location"]) == (303, "/")
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-preread=")
        assert "Secure" in cookie
        with (
            pytest.raises(ssl.SSLCertVerificationError),
            closing(http.client.HTTPSConnection("localhost", port)) as distrusting,
        ):
            distrusting.request("GET", "/sign-in")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            _ask_without_tls(port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        said = process.communicate()[0].decode()
    assert f"https://0.0.0.0:{port}/" in said


def _ask_without_tls(port: int) -> None:
    with closing(http.client.HTTPConnection("localhost", port, timeout=60)) as plain:
        plain.request("GET", "/sign-in")
        plain.getresponse()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "proxy,believed", [(None, False), ("127.0.0.1", True), ("192.0.2.0/24,127.0.0.1", True), ("*", True)]
)
def test_what_a_proxy_says_counts_only_from_the_proxy_that_is_set(
    films_here: Films, monkeypatch: Any, eventually: Callable[..., None], proxy: str | None, believed: bool
) -> None:
    monkeypatch.setattr("preread.review.auth.rate_limits.SOURCE_FAILURES", 2)
    films_here.person("ada")
    first, second = {"x-forwarded-for": "203.0.113.1"}, {"x-forwarded-for": "203.0.113.2"}
    with (
        served(films_here, proxy, eventually) as port,
        closing(http.client.HTTPConnection("127.0.0.1", port)) as connection,
    ):
        assert [sign_in(connection, "wrong wrong wrong", **first).status for _ in range(3)] == [403, 403, 429]
        # another address behind the proxy may still try; without a proxy, what a browser claims changes nothing
        assert sign_in(connection, "wrong wrong wrong", **second).status == (403 if believed else 429)


@pytest.mark.parametrize(
    "proxy,said,status",
    [
        ("192.0.2.1", {}, 403),
        ("192.0.2.1", {"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.1"}, 403),
        ("127.0.0.1", {}, 200),
        ("127.0.0.1", {"x-forwarded-proto": "https"}, 200),
        ("127.0.0.1", {"x-forwarded-proto": "http"}, 403),
        ("127.0.0.1", {"x-forwarded-proto": "https, http"}, 403),
    ],
)
def test_plain_http_is_taken_from_the_proxy_alone(
    films_here: Films, eventually: Callable[..., None], proxy: str, said: dict[str, str], status: int
) -> None:
    with served(films_here, proxy, eventually) as port:
        for method, path in (("GET", "/sign-in"), ("POST", "/sign-in"), ("GET", "/api/v1/status")):
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                connection.request(method, path, headers=said)
                answer = connection.getresponse()
                text = answer.read().decode()
            refused = status == 403
            assert ("proxy alone" in text) == refused, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            if method == "GET" and path == "/sign-in":
                assert answer.status == status


def test_the_head_of_the_audit_trail_reaches_the_system_log(films_here: Films, tmp_path: Path) -> None:
    films_here.person("ada")
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system_log:
        system_log.bind(path)
        system_log.settimeout(30)
        head = audit.log_audit_head(films_here.engine, path)
        # facility auth (4), severity notice (5)
        assert system_log.recv(4096) == f"<37>preread: audit head {head} key {head.key_id}\0".encode()
    assert audit.verify_audit_chain(films_here.engine, [head]).head == head
    with pytest.raises(FileNotFoundError):
        audit.log_audit_head(films_here.engine, str(tmp_path / "nowhere" / "log"))


def test_where_there_is_no_system_log_the_page_says_so_and_serves(
    films_here: Films, tmp_path: Path, monkeypatch: Any, caplog: Any, eventually: Callable[..., None]
) -> None:
    log_head = audit.log_audit_head
    monkeypatch.setattr(audit, "log_audit_head", lambda engine: log_head(engine, str(tmp_path / "log")))
    with TestClient(create_app(films_here.engine, WebOptions())) as client:
        eventually(lambda: "system_log_away" in caplog.messages)
        assert client.get("/sign-in").status_code == 200
