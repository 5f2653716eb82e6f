"""Clients without an account: silent, slow, large or many, from a signed-in doctor's own address."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from preread.core.types import Role
from preread.review.auth import accounts, sessions
from preread.web.limits import admission, connections
from tests.support.page import Films, served

FORM = "application/x-www-form-urlencoded"
LARGE = 16 * 1024 * 1024


@pytest.fixture
def doctor(films_here: Films) -> dict[str, str]:
    """Headers of a reader who is signed in."""
    return {"cookie": f"preread={sessions.start_session(films_here.engine, films_here.person('ada'))}"}


@pytest.fixture
def port(films_here: Films, eventually: Callable[..., None]) -> Iterator[int]:
    with served(films_here, None, eventually) as port:
        yield port


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def connected(port: int, number: int, first: bytes = b"") -> list[socket.socket]:
    made = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(number)]
    for one in made:
        one.sendall(first)
    return made


def head(port: int, method: str, path: str, **headers: str) -> socket.socket:
    """A connection on which the head of a request was sent and nothing of its body."""
    (one,) = connected(port, 1)
    lines = [f"{method} {path} HTTP/1.1", "host: here", *(f"{n.replace('_', '-')}: {v}" for n, v in headers.items())]
    one.sendall("\r\n".join([*lines, "", ""]).encode())
    return one


def status_of(one: socket.socket) -> int:
    """The status of what comes on a connection; 0: it ended without an answer."""
    with closing(one), contextlib.suppress(ConnectionResetError):
        said = b""
        while b"\r\n" not in said:
            more = one.recv(4096)
            if not more:
                return 0
            said += more
        return int(said.split()[1])
    return 0


# --------------------------------------------------------------------------- connections


@pytest.mark.parametrize("first,status", [(b"", 0), (b"GET /sign-in HTTP/1.1\r\nhost: here\r\n", 408)])
def test_who_sends_no_head_is_sent_away(
    films_here: Films, monkeypatch: Any, port: int, first: bytes, status: int
) -> None:
    monkeypatch.setattr(connections, "HEAD_WITHIN_S", 0.5)
    for one in connected(port, 5, first):
        assert status_of(one) == status


def test_who_dribbles_after_an_answer_is_sent_away(monkeypatch: Any, port: int) -> None:
    monkeypatch.setattr(connections, "HEAD_WITHIN_S", 1.0)
    (one,) = connected(port, 1, b"GET /static/icon.svg HTTP/1.1\r\nhost: here\r\n\r\nGET /static/icon.svg HTTP/1.1\r\n")
    said = b""
    with closing(one):
        while more := one.recv(65536):
            said += more
    assert said.count(b"HTTP/1.1 200") == 1
    assert b"HTTP/1.1 408" in said


def test_silent_connections_take_no_place_from_a_doctor(films_here: Films, doctor: dict[str, str], port: int) -> None:
    """More than there are places, all of them open, from the doctor's own address."""
    held = connected(port, 2 * connections.UNKNOWN_EACH)
    slow = connected(port, connections.UNKNOWN_EACH, b"GET /sign-in HTTP/1.1\r\nhost: here\r\nx-slow: ")
    try:
        for _ in range(5):
            assert ask(port, "GET", "/worklist", **doctor)[0] == 200
        assert ask(port, "GET", "/sign-in")[0] == 200
    finally:
        for one in held + slow:
            one.close()


def test_a_doctor_keeps_a_connection_while_strangers_push_each_other_out(
    films_here: Films, doctor: dict[str, str], port: int
) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/worklist", headers=doctor)
        assert connection.getresponse().read()
        own = connection.sock
        held = connected(port, connections.UNKNOWN_EACH + 20)
        connection.request("GET", "/worklist", headers=doctor)
        assert connection.getresponse().status == 200
        assert connection.sock is own
        for one in held:
            one.close()


def _send_for_ever(one: socket.socket, data: bytes) -> None:
    """Ends when the server has had enough."""
    while True:
        one.sendall(data)


def test_who_does_not_read_is_sent_away(films_here: Films, monkeypatch: Any, port: int) -> None:
    monkeypatch.setattr(connections, "READ_WITHIN_S", 0.5)
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(60)
    requests = b"GET /static/preread.css HTTP/1.1\r\nhost: here\r\n\r\n" * 100
    with closing(one):
        one.connect(("127.0.0.1", port))
        with pytest.raises(ConnectionError):
            _send_for_ever(one, requests)


def test_a_handshake_has_a_deadline_and_is_counted(
    films_here: Films, monkeypatch: Any, eventually: Callable[..., None], certificate: tuple[Path, Path]
) -> None:
    monkeypatch.setattr(connections, "HEAD_WITHIN_S", 3.0)
    trusting = ssl.create_default_context(cafile=certificate[0])
    with served(films_here, None, eventually, certificate) as port:
        held = connected(port, connections.UNKNOWN_EACH + 20)
        with closing(http.client.HTTPSConnection("localhost", port, context=trusting, timeout=60)) as connection:
            for path in ("/sign-in", "/static/preread.css"):
                connection.request("GET", path)
                answer = connection.getresponse()
                assert (answer.status, bool(answer.read())) == (200, True)
        assert [status_of(one) for one in held] == [0] * len(held)


# --------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "path,size,status",
    [
        ("/api/v1/results/search", LARGE, 413),
        ("/sign-in", LARGE, 413),
        ("/worklist/search", LARGE, 413),
        ("/sign-in", 10**15, 413),
        ("/api/v1/results/search", 60_000, 401),
        ("/worklist/search", 60_000, 401),
        ("/account/password", 60_000, 401),
    ],
)
def test_an_answer_does_not_wait_for_a_body_that_is_not_wanted(port: int, path: str, size: int, status: int) -> None:
    assert status_of(head(port, "POST", path, content_length=str(size), content_type=FORM)) == status


def test_a_token_is_looked_at_before_the_body(films_here: Films, port: int) -> None:
    token = accounts.add_account(films_here.engine, "uid:0", accounts.NewAccount("ris", "", Role.SERVICE, None))
    for given in ("preread_guess", "", str(token)[:-1]):
        one = head(port, "POST", "/api/v1/results/search", content_length="9", authorization=f"Bearer {given}")
        assert status_of(one) == 401
    accepted = {"content_type": "application/json", "authorization": f"Bearer {token}"}
    assert ask(port, "POST", "/api/v1/results/search", b"{}", **accepted)[0] == 200
    accounts.disable_account(films_here.engine, "uid:0", "ris")
    assert status_of(head(port, "POST", "/api/v1/results/search", content_length="9", **accepted)) == 401


def test_a_large_body_is_refused_whoever_sends_it_and_however(
    films_here: Films, doctor: dict[str, str], port: int
) -> None:
    token = accounts.add_account(films_here.engine, "uid:0", accounts.NewAccount("ris", "", Role.SERVICE, None))
    program = {"authorization": f"Bearer {token}", "content_type": "application/json"}
    for path, headers in (
        ("/api/v1/results/search", program),
        ("/worklist/search", {**doctor, "content_type": FORM}),
        ("/sign-in", {"content_type": FORM}),
    ):
        for body in (b"&" * LARGE, iter([b"x" * 65_536, b"y"])):
            status, text = ask(port, "POST", path, body, **headers)
            assert status == 413, path
            assert ("too_large" in text) == path.startswith("/api/")


@pytest.mark.parametrize(
    "body,kind",
    [
        (b"&" * 60_000, FORM),
        (b"a=1&" * 15_000, FORM),
        (b"name=\xff", FORM),
        (b"--x\r\n" * 10_000, "multipart/form-data; boundary=x"),
        (b"{}", "application/json"),
        (b"name=ada", ""),
    ],
)
def test_what_is_no_form_of_ours_is_refused_quickly(port: int, body: bytes, kind: str) -> None:
    assert ask(port, "POST", "/sign-in", body, content_type=kind)[0] in {415, 422}


def test_a_slow_body_has_a_deadline_and_holds_up_nobody(
    films_here: Films, monkeypatch: Any, doctor: dict[str, str], port: int
) -> None:
    monkeypatch.setattr(admission, "BODY_WITHIN_S", 5.0)
    slow = [head(port, "POST", "/sign-in", content_length="100", content_type=FORM) for _ in range(100)]
    for one in slow:
        one.sendall(b"name=")
    assert ask(port, "GET", "/worklist", **doctor)[0] == 200
    assert ask(port, "GET", "/sign-in")[0] == 200
    assert {status_of(one) for one in slow} == {408}


def test_a_client_that_goes_away_in_its_body_is_no_error(port: int, caplog: Any) -> None:
    for _ in range(3):
        head(port, "POST", "/sign-in", content_length="100", content_type=FORM).close()
    assert ask(port, "GET", "/sign-in")[0] == 200
    assert "page_failed" not in caplog.messages


# --------------------------------------------------------------------------- many


def test_a_crowd_of_strangers_does_not_stop_a_doctor_at_the_same_address(
    films_here: Films, doctor: dict[str, str], port: int
) -> None:
    ended = threading.Event()
    seen: set[int] = set()

    def stranger() -> None:
        while not ended.is_set():
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                seen.add(ask(port, "GET", "/worklist", cookie="preread=guess")[0])

    crowd = [threading.Thread(target=stranger) for _ in range(20)]
    for one in crowd:
        one.start()
    try:
        assert [ask(port, "GET", "/worklist", **doctor)[0] for _ in range(10)] == [200] * 10
    finally:
        ended.set()
        for one in crowd:
            one.join()
    assert seen <= {303, 503}


def test_a_hundred_doctors_behind_one_address_are_served(films_here: Films, port: int) -> None:
    ada = films_here.person("ada")
    cookies = [f"preread={sessions.start_session(films_here.engine, ada)}" for _ in range(100)]
    statuses: list[int] = []

    def doctor(cookie: str) -> None:
        statuses.extend(ask(port, "GET", path, cookie=cookie)[0] for path in ("/worklist", "/worklist"))

    people = [threading.Thread(target=doctor, args=[cookie]) for cookie in cookies]
    held = connected(port, connections.UNKNOWN_EACH)
    for one in people:
        one.start()
    for one in people:
        one.join()
    for silent in held:
        silent.close()
    assert statuses == [200] * 200


def test_a_refusal_has_the_shape_of_the_api(port: int) -> None:
    status, text = ask(port, "POST", "/api/v1/results/search", b"{}")
    assert (status, json.loads(text)["error"]["code"]) == (401, "not_signed_in")
