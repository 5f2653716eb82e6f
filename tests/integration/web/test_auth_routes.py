"""Signing in under attack: what is counted, what is hashed, who gets in all the same."""

from __future__ import annotations

import logging
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from preread.core import log
from preread.core.errors import NotAllowed, TooManyTries, UsageError
from preread.core.types import Role
from preread.db import review_schema
from preread.review import audit
from preread.review.auth import accounts, devices, rate_limits
from preread.web.limits import password_threads
from tests.support.page import PASSWORD, Films
from tests.support.page_clients import Browser
from tests.support.paths import DEPLOY

SHELL = "uid:0"
STRANGER, DOCTOR = "203.0.113.66", "192.0.2.1"
FILTER = DEPLOY / "fail2ban" / "preread.conf"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was really hashed, call by call."""
    matches, calls = accounts._matches, []

    def counted(stored: str, password: str) -> bool:
        calls.append(password)
        return matches(stored, password)

    monkeypatch.setattr(accounts, "_matches", counted)
    return calls


def tried(engine: Engine, name: str = "ada", password: str = "wrong wrong wrong", **more: Any) -> str:
    """What one try ends in."""
    try:
        accounts.check_password(engine, name, password, **{"source": STRANGER, **more})
    except TooManyTries:
        return "early"
    except NotAllowed:
        return "wrong"
    return "in"


def pass_time(engine: Engine, seconds: float) -> None:
    """Let so much time go by for all brakes."""
    c = review_schema.brake.c
    with engine.begin() as connection:
        for row in connection.execute(select(review_schema.brake)).all():
            moved = {
                name: getattr(row, name) and getattr(row, name) - timedelta(seconds=seconds)
                for name in ("since", "not_before", "at")
            }
            connection.execute(update(review_schema.brake).where(c.key == row.key).values(**moved))


@pytest.fixture
def ada(engine: Engine) -> Engine:
    accounts.add_account(engine, SHELL, accounts.NewAccount("ada", "Dr Ada", Role.READER, PASSWORD))
    return engine


def test_a_burst_is_counted_before_it_is_checked(ada: Engine, hashed: list[str]) -> None:
    """120 tries at once for one name from one address."""
    ended: list[str] = []
    start = threading.Barrier(30)

    def go() -> None:
        start.wait()
        ended.extend(tried(ada) for _ in range(4))

    threads = [threading.Thread(target=go) for _ in range(30)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    counted = Counter(ended)
    # five, and one more for each wait that went by meanwhile: 1, 2, 4, 8 s
    assert rate_limits.FREE_FAILURES <= counted["wrong"] <= rate_limits.FREE_FAILURES + 5
    assert counted["wrong"] + counted["early"] == 120
    assert len(hashed) == counted["wrong"]


def test_a_burst_over_many_names_is_bounded_by_address(engine: Engine, hashed: list[str]) -> None:
    ended: list[str] = []

    def go(number: int) -> None:
        ended.extend(tried(engine, f"name{number}-{again}") for again in range(8))

    threads = [threading.Thread(target=go, args=[number]) for number in range(10)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert Counter(ended) == {"wrong": rate_limits.SOURCE_FAILURES, "early": 80 - rate_limits.SOURCE_FAILURES}
    assert len(hashed) == rate_limits.SOURCE_FAILURES


def test_names_that_exist_and_names_that_do_not_are_treated_alike(ada: Engine, hashed: list[str]) -> None:
    accounts.add_account(ada, SHELL, accounts.NewAccount("ris", "", Role.SERVICE, None))
    accounts.add_account(ada, SHELL, accounts.NewAccount("eve", "", Role.READER, PASSWORD))
    accounts.disable_account(ada, SHELL, "eve")
    seen: dict[str, list[tuple[str, int]]] = {}
    # each from an address of its own, before and after the brake started, and once more when its wait is over
    for number, name in enumerate(("ada", "nobody-here", "ris", "eve", "", "x" * 500)):
        seen[name] = []
        for again in range(9):
            before = len(hashed)
            if again == 8:
                pass_time(ada, 2)
            ended = tried(ada, name, source=f"203.0.113.{number}", device_token="guess" if again % 2 else None)
            seen[name].append((ended, len(hashed) - before))
    assert len({tuple(one) for one in seen.values()}) == 1
    assert seen["ada"] == [("wrong", 1)] * 5 + [("early", 0)] * 3 + [("wrong", 1)]


def test_a_stranger_does_not_keep_the_right_password_out(ada: Engine) -> None:
    """Wrong tries for hours, as fast as the brakes allow, from one address."""
    for _ in range(60):
        tried(ada)
        pass_time(ada, 60)
        assert tried(ada, password=PASSWORD, source=DOCTOR) == "in"
    assert tried(ada, password=PASSWORD, source=DOCTOR) == "in"


def test_a_known_browser_is_let_in_from_the_strangers_own_address(ada: Engine) -> None:
    token = devices.record_browser(ada, accounts.find_account(ada, "ada"), None)
    for number in range(60):
        tried(ada, f"name{number}")
        tried(ada)
    assert tried(ada, password=PASSWORD) == "early"
    assert tried(ada, password=PASSWORD, device_token=token) == "in"
    # but it guesses no more than others, and is known for its owner alone
    ended = Counter(tried(ada, device_token=token) for _ in range(20))
    assert ended["wrong"] <= rate_limits.FREE_FAILURES + 2
    accounts.add_account(ada, SHELL, accounts.NewAccount("ben", "", Role.READER, PASSWORD))
    assert tried(ada, "ben", PASSWORD, device_token=token) == "early"
    accounts.renew_secret(ada, SHELL, "ada", "another long password")
    assert not devices.is_known_browser(ada, token)


def test_guessing_from_everywhere_is_bounded_and_leaves_known_browsers_alone(ada: Engine, hashed: list[str]) -> None:
    token = devices.record_browser(ada, accounts.find_account(ada, "ada"), None)
    ended = Counter(tried(ada, source=f"198.51.{n // 250}.{n % 250}") for n in range(130))
    assert ended == {"wrong": rate_limits.NAME_FAILURES, "early": 30}
    assert tried(ada, password=PASSWORD, source=DOCTOR) == "early"
    assert tried(ada, password=PASSWORD, source=DOCTOR, device_token=token) == "in"
    assert len(hashed) == rate_limits.NAME_FAILURES + 1
    pass_time(ada, rate_limits.NAME_WINDOW_S)
    assert tried(ada, password=PASSWORD, source=DOCTOR) == "in"


def test_a_network_of_ipv6_is_one_source(ada: Engine) -> None:
    ended = Counter(tried(ada, source=f"2001:db8:1:2::{n:x}") for n in range(1, 21))
    assert ended["wrong"] <= rate_limits.FREE_FAILURES + 2


def test_a_success_ends_the_waiting_and_is_not_counted(ada: Engine) -> None:
    for _ in range(4):
        assert tried(ada) == "wrong"
    for _ in range(2 * rate_limits.SOURCE_FAILURES):
        assert tried(ada, password=PASSWORD) == "in"
    assert [tried(ada) for _ in range(5)] == ["wrong"] * 5
    assert tried(ada, password=PASSWORD) == "early"
    pass_time(ada, 1.5)
    assert tried(ada, password=PASSWORD) == "in"


def test_brakes_are_forgotten_after_a_day(ada: Engine) -> None:
    for number in range(20):
        tried(ada, f"name{number}")
    pass_time(ada, 25 * 3600)
    tried(ada)
    with ada.connect() as connection:
        assert len(connection.execute(select(review_schema.brake)).all()) == 3


def test_a_browser_gets_a_new_token_with_each_sign_in(ada: Engine) -> None:
    accounts.add_account(ada, SHELL, accounts.NewAccount("ben", "", Role.READER, PASSWORD))
    first = devices.record_browser(ada, accounts.find_account(ada, "ada"), "planted by somebody")
    second = devices.record_browser(ada, accounts.find_account(ada, "ben"), first)
    assert [devices.is_known_browser(ada, one) for one in ("planted by somebody", first, second)] == [
        False,
        False,
        True,
    ]
    for _ in range(3 * devices._AN_ACCOUNT):
        devices.record_browser(ada, accounts.find_account(ada, "ada"), None)
    with ada.connect() as connection:
        c = review_schema.device.c
        mine = connection.execute(
            select(c.id).where(c.account_id == accounts.find_account(ada, "ada").account_id)
        ).all()
    assert len(mine) == devices._AN_ACCOUNT


@pytest.mark.parametrize("password", ["password1234", "ada-ada-ada-ada", "Dr.Ada-Preread", "aaaaaaaaaaaa"])
def test_a_password_that_everybody_tries_is_no_account(engine: Engine, password: str) -> None:
    with pytest.raises(UsageError, match="guessed"):
        accounts.add_account(engine, SHELL, accounts.NewAccount("ada", "Dr Ada", Role.READER, password))
    accounts.add_account(engine, SHELL, accounts.NewAccount("ada", "Dr Ada", Role.READER, PASSWORD))
    with pytest.raises(UsageError, match="guessed"):
        accounts.renew_secret(engine, SHELL, "ada", password)
    with pytest.raises(UsageError, match="the present one"):
        accounts.renew_secret(engine, SHELL, "ada", PASSWORD)


# --------------------------------------------------------------------------- through the page


def test_failures_stand_in_log_and_trail_as_fail2ban_reads_them(
    films_here: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films_here.person("ada")
    log_file = tmp_path / "web.log"
    for as_json in (True, False):
        with log_file.open("a") as stream:
            log.configure_logging(json_lines=as_json, stream=stream)
            try:
                monkeypatch.setattr(rate_limits, "FREE_FAILURES", 2)
                # on a busy machine the third try comes more than a second after the second
                monkeypatch.setattr(rate_limits, "FIRST_WAIT_S", 300.0)
                for name, address in (("ada", "203.0.113.9"), ("nobody\n here", "2001:db8::9")):
                    browser = Browser(films_here, proxy="*")
                    browser.client.headers["x-forwarded-for"] = f"198.51.100.1, {address}"
                    assert [browser.sign_in(name, "wrong").status for _ in range(3)][-1] == 429
            finally:
                log.configure_logging()
    assert "nobody" not in log_file.read_text()
    actors = {(row.actor, row.action) for row in audit.latest_audit_entries(films_here.engine, 50)}
    assert {("nobody@203.0.113.9", "sign_in_failed"), ("nobody@2001:db8::9", "sign_in_failed")} <= actors
    pattern = re.search(r"failregex = (.*)\n\s+(.*)\n", FILTER.read_text())
    assert pattern
    address = r"(?P<host>[0-9a-f.:]+)"
    found = [
        match["host"]
        for line in log_file.read_text().splitlines()
        for one in pattern.groups()
        if (match := re.search(one.replace("<ADDR>", address).replace(r"^\s*", r"^[\d:]+\s*"), line))
    ]
    assert len(found) >= 10
    assert set(found) == {"203.0.113.9", "2001:db8::9"}


@pytest.mark.fail2ban
def test_fail2ban_reads_the_log_and_is_not_led_astray(tmp_path: Path) -> None:
    log_file = tmp_path / "web.log"
    with log_file.open("w") as stream:
        for as_json in (True, False):
            log.configure_logging(json_lines=as_json, stream=stream)
            said = logging.getLogger("preread.web.auth_routes")
            for address, code in (("203.0.113.9", "not_allowed"), ("2001:db8::9", "too_many_tries")):
                said.warning("sign_in_failed", extra={"address": address, "code": code})
            # what a client can write into a field is no failure of somebody else
            for address in (
                'x", "event": "sign_in_failed", "address": "198.51.100.1',
                "a sign_in_failed  address=1.2.3.4",
            ):
                said.warning("page_failed", extra={"address": address, "code": "not_allowed"})
            said.info("sign_in_failed", extra={"address": "198.51.100.2"})
        log.configure_logging()
    answer = subprocess.run(
        ["fail2ban-regex", "--print-all-matched", log_file, FILTER], check=True, capture_output=True, text=True
    )
    assert "4 matched" in answer.stdout, answer.stdout
    matched = answer.stdout.split("Matched line(s)")[1].split("Missed line(s)")[0]
    assert matched.count("203.0.113.9") == matched.count("2001:db8::9") == 2
    assert "198.51.100" not in matched


def test_a_full_queue_is_answered_at_once_and_known_browsers_have_their_own(
    films_here: Films, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    films_here.person("ada")
    known = Browser(films_here).sign_in()
    assert known.status == 303
    monkeypatch.setattr(password_threads, "WAITING", 1)
    go_on, entered = threading.Event(), threading.Event()
    matches = accounts._matches

    def slow(stored: str, password: str) -> bool:
        if password == "slow":
            entered.set()
            go_on.wait(60)
        return matches(stored, password)

    monkeypatch.setattr(accounts, "_matches", slow)
    stranger = Browser(films_here)
    site: Any = stranger.client.app.state.site  # type: ignore[attr-defined]
    crowd = [threading.Thread(target=lambda n=number: _try(stranger, n)) for number in range(2)]
    with stranger.client:
        try:
            for one in crowd:
                one.start()
            assert entered.wait(60)
            eventually(lambda: site.hashing._lanes[False].taken == 2)
            answer = _try(stranger, 3)
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
            assert "Preread is busy" in answer.text
            # a browser that looks as if it were known is told at the place itself, and its form is kept
            guessing = _try(stranger, 4, "; preread_device=guess")
            assert (guessing.status_code, guessing.headers["retry-after"]) == (503, "5")
            assert "Many people are signing in" in guessing.text
            assert stranger.client.get("/sign-in").status_code == 200
        finally:
            go_on.set()
            for one in crowd:
                one.join()


def _try(browser: Browser, number: int, more: str = "") -> Any:
    fields = {"door": "d", "to": "/", "name": f"name{number}", "password": "slow"}
    return browser.client.post("/sign-in", data=fields, headers={"cookie": f"preread_door=d{more}"})
