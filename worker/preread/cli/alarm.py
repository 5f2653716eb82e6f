"""``preread alarm``: alerts by mail or webhook."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from datetime import UTC, datetime
from ipaddress import ip_address

import typer

from preread.cli import output
from preread.cli.bundle_health import with_bundle_problem
from preread.cli.context import open_database, read_settings
from preread.cli.messages import print_message
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

    It is a separate process, so that it can report a dead worker; one process per database is enough. The watched
    folders are those of the settings, else those of the workers in the database. Messages name problems, never an image
    or a folder.

    Exit code: 0 when stopped by a signal; 2 if no mail server and no webhook is set, or the database's schema does not
    fit; 3 if the database is not available at the start.
    """
    settings = read_settings(context, quiet=False)
    channels = _channels(settings)
    engine = open_database(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watcher = alarm.Watch(
        channels,
        site=socket.gethostname(),
        after_s=settings.alarm_after_s,
        told=alarm.load_notified(engine),
        keep=lambda channel, codes: alarm.save_notified(engine, channel, codes),
        page=_page(settings),
    )
    roots = [os.fsencode(os.path.abspath(root.path)) for root in settings.roots] or None

    def probe() -> health.Health:
        found = health.report(engine, roots=roots, scan_interval_s=settings.scan_interval_s, states=())
        return with_bundle_problem(settings, engine, found)

    try:
        alarm.run(watcher, probe, stop, time.monotonic)
    finally:
        engine.dispose()


@app.command("test")
def test(context: typer.Context) -> None:
    """Send a test message on every configured channel.

    Exit code: 0 if every channel accepted the message; 1 if one did not; 2 if none is configured.
    """
    failed = False
    settings = read_settings(context)
    message = Message((), (), socket.gethostname(), datetime.now(UTC), trial=True, page=_page(settings))
    for channel in _channels(settings):
        try:
            channel.send(message)
        except AlarmNotSent as error:
            failed = True
            print_message(f"{channel.name}: {error} [{error.code}]")
            print_message(f"  {error.hint}")
        else:
            output.print_text(f"{channel.name}: accepted")
    if failed:
        raise typer.Exit(1)


def _page(settings: Settings) -> str:
    """Return the URL of the page for other machines, or an empty string.

    The settings do not name it behind a proxy, or if the page listens on every address.
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
        raise SettingsError("PREREAD_ALARM_MAIL_SERVER and PREREAD_ALARM_MAIL_TO must both be set")
    found = alarm.channels(
        mail_server=settings.alarm_mail_server,
        mail_to=to,
        mail_from=settings.alarm_mail_from,
        webhook=settings.alarm_webhook,
    )
    if not found:
        raise SettingsError(
            "no channel is configured: set PREREAD_ALARM_MAIL_SERVER and PREREAD_ALARM_MAIL_TO, or "
            "PREREAD_ALARM_WEBHOOK"
        )
    return found
