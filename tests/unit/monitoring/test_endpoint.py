"""``GET /health``: green, red, in time, and never in the worker's way."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine

from preread.core.errors import DatabaseAway, EnvironmentFault
from preread.monitoring import http_server
from preread.monitoring.endpoint import monitored
from preread.monitoring.health import Health, Level, Problem

ANY_PORT = ("127.0.0.1", 0)


class Probe:
    """What the database would say."""

    def __init__(self) -> None:
        self.problems: tuple[Problem, ...] = ()
        self.raises: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.calls = 0

    def __call__(self) -> Health:
        self.calls += 1
        self.go_on.wait(60)
        if self.raises is not None:
            raise self.raises
        return Health(datetime.now(UTC), self.problems)


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.go_on.set()


def ask(port: int, path: str = "/health", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("level, status", [(None, 200), (Level.WARNING, 200), (Level.CRITICAL, 503)])
def test_the_colour_is_the_status(probe: Probe, level: Level | None, status: int) -> None:
    probe.problems = () if level is None else (Problem(level, "stalled", "nothing moves"),)
    with http_server.serve(ANY_PORT, probe) as port:
        found, body = ask(port)
        assert (found, json.loads(body)["status"]) == (status, (level or Level.OK).name.lower())
        assert ask(port, method="HEAD") == (status, "")


@pytest.mark.parametrize("path", ["/", "/healthz", "/../etc/passwd", "/health/x"])
def test_there_is_nothing_else(probe: Probe, path: str) -> None:
    with http_server.serve(ANY_PORT, probe) as port:
        assert ask(port, path)[0] == 404
        assert ask(port, method="POST")[0] == 501
    assert probe.calls == 0


@pytest.mark.parametrize("error, code", [(DatabaseAway("gone"), "database_away"), (KeyError("x"), "internal")])
def test_a_report_that_fails_is_red_and_the_next_one_is_asked_for(
    probe: Probe, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    monkeypatch.setattr(http_server, "_FRESH_S", 0.0)
    probe.raises = error
    with http_server.serve(ANY_PORT, probe) as port:
        status, body = ask(port)
        assert (status, json.loads(body)["problems"][0]["code"]) == (503, code)
        probe.raises = None
        assert ask(port)[0] == 200


def test_a_database_that_hangs_is_red_in_time_and_holds_up_nobody(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr(http_server, "_FRESH_S", 0.0)
    probe.go_on.clear()
    with http_server.serve(ANY_PORT, probe) as port:
        for _ in range(3):
            status, body = ask(port)
            assert (status, json.loads(body)["problems"][0]["code"]) == (503, "database_away")
        assert probe.calls == 1, "one thread waits for it, however many ask"


def test_many_requests_ask_the_database_once(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_FRESH_S", 3600.0)
    with http_server.serve(ANY_PORT, probe) as port:
        assert {ask(port)[0] for _ in range(20)} == {200}
    assert probe.calls == 1


def test_clients_that_say_nothing_do_not_shut_others_out_for_long(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_AT_ONCE", 2)
    monkeypatch.setattr(http_server._Handler, "timeout", 0.2)
    with http_server.serve(ANY_PORT, probe) as port:
        assert port is not None
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        for one in silent:
            one.settimeout(60)
            assert one.recv(1) == b"", "it was sent away"
            one.close()
        assert ask(port)[0] == 200


@pytest.mark.parametrize(
    "head,status",
    [
        ("HTTP/1.1\r\nHost: 127.0.0.1:{port}", 200),
        ("HTTP/1.1\r\nHost: localhost", 200),
        ("HTTP/1.1\r\nHost: LOCALHOST.:{port}", 200),
        ("HTTP/1.1\r\nHost: [::1]:{port}", 200),
        ("HTTP/1.1\r\nHost: xray-desk-1:{port}", 200),
        ("HTTP/1.0", 200),
        ("HTTP/1.1", 421),
        ("HTTP/1.1\r\nHost:", 421),
        ("HTTP/1.1\r\nHost: rebound.example:{port}", 421),
        ("HTTP/1.1\r\nHost: 127.0.0.1.rebound.example", 421),
        ("HTTP/1.1\r\nHost: localhost\r\nHost: rebound.example", 421),
        ("HTTP/1.1\r\nHost: 192.0.2.1", 421),
    ],
)
@pytest.mark.parametrize("path", ["/health", "/metrics", "/"])
def test_only_the_names_that_are_set_are_answered(probe: Probe, head: str, status: int, path: str) -> None:
    with (
        http_server.serve(ANY_PORT, probe, hosts=frozenset({"xray-desk-1"})) as port,
        socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
    ):
        connection.sendall(f"GET {path} {head.format(port=port)}\r\n\r\n".encode())
        found = int(connection.makefile("rb").readline().split()[1])
    assert found == (status if status == 421 or path == "/health" else 404)
    assert probe.calls == (found == 200)


def test_any_host_may_be_set(probe: Probe) -> None:
    with http_server.serve(ANY_PORT, probe, hosts=frozenset({"*"})) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/health", headers={"host": "anything.example"})
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize(
    "listen, hosts, opened",
    [
        ("0.0.0.0:8321", None, "127.0.0.1"),
        ("[::]:8321", None, "::1"),
        ("192.0.2.1:8321", None, "127.0.0.1"),
        ("xray-desk-1:8321", None, "127.0.0.1"),
        ("0.0.0.0:8321", "xray-desk-1", "0.0.0.0"),
        ("127.0.0.1:8321", None, "127.0.0.1"),
        ("localhost:8321", None, "localhost"),
    ],
)
def test_others_reach_it_only_where_that_is_set(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, listen: str, hosts: str | None, opened: str
) -> None:
    asked: list[str] = []

    @contextlib.contextmanager
    def serving(address: tuple[str, int], *_: object, **__: object) -> Iterator[int]:
        asked.append(address[0])
        yield 1

    monkeypatch.setattr(http_server, "serve", serving)
    with monitored(listen, create_engine("sqlite://"), roots=None, scan_interval_s=1.0, hosts=hosts):
        pass
    assert asked == [opened]
    assert ("health_kept_inside" in caplog.messages) == (opened != listen.rpartition(":")[0].strip("[]"))


def test_an_address_in_use_is_named(probe: Probe) -> None:
    with http_server.serve(ANY_PORT, probe) as port:
        for others in ((), (port,)):
            with (
                pytest.raises(EnvironmentFault, match=f"127.0.0.1:{port}"),
                http_server.serve(("127.0.0.1", port), probe, other_ports=others),
            ):
                pass


def test_the_next_free_port_is_taken(probe: Probe) -> None:
    with http_server.serve(ANY_PORT, probe) as first, http_server.serve(ANY_PORT, probe) as second:
        others = (second, 0)
        with http_server.serve(("127.0.0.1", first), probe, other_ports=others) as third:
            assert third not in (first, second)
            assert [ask(port)[0] for port in (first, second, third)] == [200, 200, 200]


@pytest.mark.parametrize(
    "ports_after, opens, others", [(0, 65_534, []), (64, 65_535, []), (1, 65_535, [])], ids=["itself", "next", "one"]
)
def test_the_port_that_is_named_is_the_workers(
    monkeypatch: pytest.MonkeyPatch, ports_after: int, opens: int, others: list[int]
) -> None:
    """A fleet's processes take the ones after it, of which there may be few."""
    asked: list[object] = []

    @contextlib.contextmanager
    def serving(address: object, *_: object, other_ports: Iterable[int], hosts: object) -> Iterator[int]:
        asked.extend((address, list(other_ports)))
        yield 1

    monkeypatch.setattr(http_server, "serve", serving)
    engine = create_engine("sqlite://")
    with monitored("127.0.0.1:65534", engine, roots=None, scan_interval_s=1.0, ports_after=ports_after) as meters:
        assert meters is not None
    assert asked == [("127.0.0.1", opens), others]


def test_nothing_is_opened_unless_asked_for() -> None:
    before = threading.active_count()
    with monitored(None, create_engine("sqlite://"), roots=None, scan_interval_s=1.0) as meters:
        assert meters is None
        assert threading.active_count() == before
