"""``preread alarm``: mail or a webhook when something is critical, for sites without monitoring."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from datetime import UTC, datetime
from ipaddress import ip_address

import typer

from preread.cli import context as door
from preread.cli import in_use, output
from preread.core.errors import AlarmNotSent, SettingsError
from preread.core.settings import Settings
from preread.monitoring import alarm, health
from preread.monitoring.alarm import Channel, Message

app = typer.Typer(no_args_is_help=True, help="Send alerts by mail or webhook.")


@app.command("watch")
def watch(context: typer.Context) -> None:
    """Watch the health of the worker and send alerts.

    Checks what `preread status` checks until SIGTERM. Sends one message when something becomes critical, and one when
    everything is well again.

    A process of its own, so that it can tell of a worker that is dead; one for each database is enough. The roots are
    those of the settings, else those of the workers in the database. Messages name problems, never a film or a folder.

    Exit code: 0 when it was told to stop; 2 when no mail server and no webhook is set, or the database's schema does
    not fit; 3 when the database is away at the start.
    """
    settings = door.read_settings(context, quiet=False)
    ways = _channels(settings)
    engine = door.open_database(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watcher = alarm.Watch(
        ways,
        site=socket.gethostname(),
        after_s=settings.alarm_after_s,
        told=alarm.load_notified(engine),
        keep=lambda channel, codes: alarm.save_notified(engine, channel, codes),
        page=_page(settings),
    )
    roots = [os.fsencode(os.path.abspath(root.path)) for root in settings.roots] or None

    def probe() -> health.Health:
        found = health.report(engine, roots=roots, scan_interval_s=settings.scan_interval_s, states=())
        return in_use.judged(settings, engine, found)

    try:
        alarm.run(watcher, probe, stop, time.monotonic)
    finally:
        engine.dispose()


@app.command("test")
def test(context: typer.Context) -> None:
    """Send a test message on every configured channel.

    Exit code: 0 when each was taken; 1 when one was not; 2 when none is set.
    """
    failed = False
    settings = door.read_settings(context)
    news = Message((), (), socket.gethostname(), datetime.now(UTC), trial=True, page=_page(settings))
    for way in _channels(settings):
        try:
            way.send(news)
        except AlarmNotSent as error:
            failed = True
            output.say(f"{way.name}: {error} [{error.code}]")
            output.say(f"  {error.hint}")
        else:
            output.print_text(f"{way.name}: taken")
    if failed:
        raise typer.Exit(1)


def _page(settings: Settings) -> str:
    """Return the address of the doctors' page, where the settings tell one that other machines can open.

    Behind a proxy, or on every address of this machine, they do not.
    """
    host = settings.web_host
    try:
        address = ip_address(host)
        known = not (address.is_loopback or address.is_unspecified)
    except ValueError:  # a name
        known = host != "localhost"
    if settings.web_proxy is not None or not known:
        return ""
    scheme = "https" if settings.web_tls_cert is not None else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.web_port}/"


def _channels(settings: Settings) -> list[Channel]:
    to = [address.strip() for address in (settings.alarm_mail_to or "").split(",") if address.strip()]
    if (settings.alarm_mail_server is None) != (not to):
        raise SettingsError("PREREAD_ALARM_MAIL_SERVER and PREREAD_ALARM_MAIL_TO are needed both")
    found = alarm.channels(
        mail_server=settings.alarm_mail_server,
        mail_to=to,
        mail_from=settings.alarm_mail_from,
        webhook=settings.alarm_webhook,
    )
    if not found:
        raise SettingsError(
            "no way to tell anybody is set: PREREAD_ALARM_MAIL_SERVER with PREREAD_ALARM_MAIL_TO, or "
            "PREREAD_ALARM_WEBHOOK"
        )
    return found
