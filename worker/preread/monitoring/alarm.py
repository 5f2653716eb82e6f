"""Alerts by mail or webhook for sites without monitoring.

``preread alarm watch`` is a process of its own, so that it also detects a dead worker. Each channel is notified once of
each problem that lasted, and once of the recovery; what was sent is stored in the database. Messages contain codes and
numbers, never images, folders or patients, since they leave the site.
"""

from __future__ import annotations

import logging
import smtplib
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from http import HTTPStatus
from json import dumps
from typing import Protocol
from urllib.parse import SplitResult, unquote

from sqlalchemy import Engine, delete, insert, select

from preread.core.addresses import MAIL_PORTS, parse_mail_server
from preread.core.backoff import Backoff
from preread.core.errors import AlarmNotSent, PrereadError
from preread.core.types import JSONObject
from preread.db import admin_schema
from preread.db.engine import read
from preread.ledger.transaction import Transaction, transaction
from preread.monitoring import health
from preread.monitoring.health import Health, Level

_LOG = logging.getLogger(__name__)
LOOK_S = 10.0
SEND_WITHIN_S = 20.0
_DELAY = Backoff(30.0, 3600.0)
# About seventeen hours; then this message is abandoned, and the next one has its own attempts.
TRIES_AT_MOST = 24
_alarm = admin_schema.alarm.c


# ---------------------------------------------------------------------- messages


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        appeared: codes of critical problems that the channel was not notified of yet.
        present: codes of all critical problems; empty after recovery.
        site: name of this installation.
        at: time of the report.
        trial: it is a test message.
        page: URL of the doctors' page, or empty.
    """

    appeared: tuple[str, ...]
    present: tuple[str, ...]
    site: str
    at: datetime
    trial: bool = False
    page: str = ""

    @property
    def sentence(self) -> str:
        """Problem and place in whole sentences with the page's URL, for a chat."""
        look = f"Look at {self.page}." if self.page else "`preread status` on that machine says more."
        if self.trial:
            return f"This is a trial of the alarm of Preread on {self.site}: nothing is wrong."
        if not self.present:
            return f"Preread on {self.site} has recovered: nothing is critical any more. {look}"
        what = " ".join(f"{describe(code)} ({code})." for code in self.appeared or self.present)
        return f"Preread on {self.site} needs somebody: {what} {look}"

    @property
    def subject(self) -> str:
        """Subject line."""
        if self.trial:
            return f"Preread at {self.site}: a trial, nothing is wrong"
        if not self.present:
            return f"Preread at {self.site}: recovered"
        return f"Preread at {self.site}: CRITICAL {', '.join(self.appeared or self.present)}"

    @property
    def text(self) -> str:
        """Complete text."""
        when = f"{self.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        if self.trial:
            body = "This is a trial of the alarm (`preread alarm test`). Nothing is wrong."
        elif not self.present:
            body = "Nothing is critical any more."
        else:
            body = f"Critical now: {', '.join(self.present)}.\nThe runbook has a row for each of these words."
        page = f"The page: {self.page}\n" if self.page else ""
        return f"{self.subject}\n\n{when}\n{body}\n{page}`preread status` on that machine says more.\n"

    def to_json(self) -> JSONObject:
        """Return the JSON object that a webhook receives."""
        status = "trial" if self.trial else "critical" if self.present else "recovered"
        return {
            "status": status,
            "appeared": list(self.appeared),
            "present": list(self.present),
            "site": self.site,
            "at": self.at.astimezone(UTC).isoformat(timespec="seconds"),
            "text": self.sentence,
        }


_CRITICAL = {
    "no_worker": "no worker is running, so new images are not assessed",
    "worker_silent": "the worker does not answer: it hangs, was killed, or cannot write to the database",
    "no_slots": "the worker cannot read any image",
    "unwatched": "a folder is not watched by any worker",
    "scan_stalled": "the scan of a folder has stalled",
    "scan_overdue": "a folder was not scanned for too long",
    "stalled": "images are waiting and none is being assessed",
    "missed": "images disappeared before they could be read",
}


def describe(code: str) -> str:
    """Return a critical problem in words.

    Problems of share or database are described by the docstring of their error class.
    """
    if code in _CRITICAL:
        return _CRITICAL[code]
    kinds: list[type[PrereadError]] = [PrereadError]
    for kind in kinds:
        if kind.code == code and kind.__doc__:
            sentence = kind.__doc__.splitlines()[0].rstrip(".")
            return sentence[0].lower() + sentence[1:]
        kinds += kind.__subclasses__()
    return "something is critical"


# ---------------------------------------------------------------------- ways to say it


class Channel(Protocol):
    """A way to notify people."""

    @property
    def name(self) -> str:
        """Name in the database and in the log."""

    def send(self, news: Message) -> None:
        """Send one message.

        Raises:
            AlarmNotSent: it was not accepted.
        """


@dataclass(frozen=True, slots=True)
class Mail:
    """Channel over SMTP.

    Attributes:
        server: ``smtp://host:25``, ``starttls://user:password@host:587`` or ``smtps://user:password@host:465``.
        to: recipients.
        sender: sender's address.
        name: name of the channel.
    """

    server: str
    to: tuple[str, ...]
    sender: str
    name: str = "mail"

    def send(self, news: Message) -> None:
        """Send one message; raise ``AlarmNotSent`` as in ``Channel.send``."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self.sender, ", ".join(self.to), news.subject
        message["Date"] = format_datetime(datetime.now(UTC))
        message["Message-ID"] = make_msgid(domain="preread.invalid")
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(news.text)
        url = parse_mail_server(self.server)
        try:
            with self._connect(url) as connection:
                if url.username is not None:
                    connection.login(unquote(url.username), unquote(url.password or ""))
                connection.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            raise AlarmNotSent(f"the mail server {url.hostname} did not take the mail: {_why(error)}") from error

    def _connect(self, url: SplitResult) -> smtplib.SMTP:
        host, port = url.hostname or "", url.port or MAIL_PORTS[url.scheme]
        if url.scheme == "smtps":
            return smtplib.SMTP_SSL(host, port, timeout=SEND_WITHIN_S, context=ssl.create_default_context())
        connection = smtplib.SMTP(host, port, timeout=SEND_WITHIN_S)
        if url.scheme == "starttls":
            try:
                connection.starttls(context=ssl.create_default_context())
            except (OSError, smtplib.SMTPException):
                connection.close()
                raise
        return connection


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a message is sent to the configured URL only."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Webhook:
    """Channel that posts one JSON object."""

    url: str
    name: str = "webhook"

    def send(self, news: Message) -> None:
        """Send one message; raise ``AlarmNotSent`` as in ``Channel.send``."""
        headers = {"Content-Type": "application/json", "User-Agent": "preread"}
        request = urllib.request.Request(self.url, dumps(news.to_json()).encode(), headers, method="POST")  # noqa: S310
        try:
            with closing(urllib.request.build_opener(_NoRedirects).open(request, timeout=SEND_WITHIN_S)) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            status = error.code
            error.close()
        except (OSError, ValueError) as error:
            # never the URL: it often contains the credential
            raise AlarmNotSent(f"the webhook did not answer: {_why(error)}") from error
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise AlarmNotSent(f"the webhook answered with status {status}")


def _why(error: Exception) -> str:
    """Return the kind of a failure, without the server's text or a password."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, Exception) else error
    match cause:
        case ssl.SSLCertVerificationError():
            detail = f": its certificate is not trusted ({cause.verify_message})"
        case ssl.SSLError():
            detail = ": no TLS connection came about; is this the port for it?"
        case smtplib.SMTPAuthenticationError():
            detail = f": it refuses the user or the password ({cause.smtp_code})"
        case smtplib.SMTPNotSupportedError():
            detail = ": it offers no STARTTLS, or no signing in by password"
        case _:
            detail = ""
    return type(cause).__name__ + detail


def channels(
    *, mail_server: str | None, mail_to: Iterable[str], mail_from: str | None, webhook: str | None
) -> list[Channel]:
    """Return the configured channels.

    Args:
        mail_server: URL as in ``Mail.server``, or ``None``.
        mail_to: recipients; none disables mail.
        mail_from: sender's address; ``None`` derives one from the host name.
        webhook: URL, or ``None``.
    """
    configured: list[Channel] = []
    to = tuple(mail_to)
    if mail_server is not None and to:
        configured.append(Mail(mail_server, to, mail_from or f"preread@{socket.getfqdn()}"))
    if webhook is not None:
        configured.append(Webhook(webhook))
    return configured


# ---------------------------------------------------------------------- when to send


def load_notified(engine: Engine) -> dict[str, frozenset[str]]:
    """Return the codes that each channel was last notified of, by its name."""
    rows = read(engine, lambda connection: connection.execute(select(admin_schema.alarm)).all())
    return {row.channel: frozenset(row.codes.split()) for row in rows}


@transaction
def save_notified(tx: Transaction, channel: str, codes: Collection[str]) -> None:
    """Store the codes that a channel was notified of."""
    row = {"channel": channel, "codes": " ".join(sorted(codes)), "told_at": tx.now}
    tx.connection.execute(delete(admin_schema.alarm).where(_alarm.channel == channel))
    tx.connection.execute(insert(admin_schema.alarm), row)


@dataclass(slots=True)
class _ChannelState:
    """State of one channel and of its next message.

    Attributes:
        channel: the channel.
        told: codes it was notified of.
        kept: ``told`` is stored in the database.
        pending: codes of the message being sent; ``None`` if there is none.
        tries: attempts of that message.
        not_before: monotonic seconds of the next attempt.
    """

    channel: Channel
    told: frozenset[str] = frozenset()
    kept: bool = True
    pending: frozenset[str] | None = None
    tries: int = 0
    not_before: float = float("-inf")


class Watch:
    """Decides which messages are due and sends them. For one thread.

    Args:
        ways: channels.
        site: name of this installation.
        after_s: seconds for which a problem must last, or be over, before a message is sent.
        told: codes that the channels were notified of by an earlier process, by channel name.
        keep: stores the codes of a channel; raises ``PrereadError`` on failure.
        page: URL of the doctors' page, or empty.
    """

    def __init__(
        self,
        ways: Sequence[Channel],
        *,
        site: str,
        after_s: float,
        told: dict[str, frozenset[str]],
        keep: Callable[[str, Collection[str]], None],
        page: str = "",
    ) -> None:
        self._states = [_ChannelState(way, told.get(way.name, frozenset())) for way in ways]
        self._site = site
        self._page = page
        self._after_s = after_s
        self._keep = keep
        self._since: dict[str, float] = {}
        self._gone_since: dict[str, float] = {}
        self._well_since: float | None = None

    def update(self, report: Health, now: float) -> None:
        """Process a health report.

        Args:
            report: the report.
            now: monotonic seconds.
        """
        critical = {problem.code for problem in report.problems if problem.level is Level.CRITICAL}
        self._since = {code: self._since.get(code, now) for code in critical}
        if critical:
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        lasting = frozenset(code for code, since in self._since.items() if now - since >= self._after_s)
        well = self._well_since is not None and now - self._well_since >= self._after_s
        notified = frozenset().union(*(state.told for state in self._states))
        self._gone_since = {code: self._gone_since.get(code, now) for code in notified - critical}
        gone = {code for code, since in self._gone_since.items() if now - since >= self._after_s}
        for state in self._states:
            if (lasting - state.told) or (well and state.told):
                self._send(state, lasting, report.at, now)
            elif state.told - gone < state.told and state.told - gone:
                # another problem persists: notify again if this one returns
                state.told, state.kept = state.told - gone, False
            if not state.kept:
                self._save(state)

    def _send(self, state: _ChannelState, lasting: frozenset[str], at: datetime, now: float) -> None:
        if state.pending != lasting:  # another message has attempts of its own
            state.pending, state.tries, state.not_before = lasting, 0, float("-inf")
        if state.tries >= TRIES_AT_MOST or now < state.not_before:
            return
        state.tries += 1
        message = Message(tuple(sorted(lasting - state.told)), tuple(sorted(lasting)), self._site, at, page=self._page)
        extra = {"why": state.channel.name, "tries": state.tries, "state": "critical" if lasting else "recovered"}
        try:
            state.channel.send(message)
        except AlarmNotSent as error:
            state.not_before = now + _DELAY.after(state.tries)
            _LOG.warning("alarm_not_sent", extra=extra | {"code": error.code, "error": str(error)})
            return
        _LOG.info("alarm_sent", extra=extra)
        state.told, state.pending, state.kept = lasting, None, False

    def _save(self, state: _ChannelState) -> None:
        try:
            self._keep(state.channel.name, state.told)
        except PrereadError as error:
            _LOG.debug("alarm_not_kept", extra={"code": error.code})  # the database is what is wrong: at the next look
        else:
            state.kept = True


def run(watch: Watch, probe: Callable[[], Health], stop: threading.Event, clock: Callable[[], float]) -> None:
    """Check every few seconds until ``stop`` is set.

    Args:
        watch: decides and sends.
        probe: returns a health report.
        stop: ends the loop.
        clock: returns monotonic seconds.
    """
    looked = False
    while not stop.is_set():
        try:
            report = probe()
        except PrereadError as error:
            report = health.unavailable(error)
        watch.update(report, clock())
        if not looked:
            _LOG.info("alarm_watching", extra={"state": report.level.name.lower()})
            looked = True
        stop.wait(LOOK_S)
