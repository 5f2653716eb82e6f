"""``preread web``: serve the doctors' page and the API."""

from __future__ import annotations

import os
from functools import partial
from typing import Annotated

import typer

from preread.cli import purge
from preread.cli.bundle_health import with_bundle_problem
from preread.cli.context import open_database, read_settings, watched_paths
from preread.cli.messages import print_message
from preread.core.systemd import Notifier
from preread.db.engine import sqlite_path
from preread.imaging import previews
from preread.review.auth import accounts
from preread.web import app, server
from preread.web.context import WebOptions


def web(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option(help="address to listen on; default: the setting PREREAD_WEB_HOST")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="port to listen on; default: the setting PREREAD_WEB_PORT")
    ] = None,
) -> None:
    """Serve the doctors' web page and the API.

    Runs until SIGTERM or Ctrl-C.

    By default it listens on the loopback address only. Another address is refused unless a certificate
    (PREREAD_WEB_TLS_CERT) or a proxy with TLS (PREREAD_WEB_PROXY) is set. Nobody can sign in before
    `preread users add`.

    Exit code: 0 when stopped by a signal; 2 settings or schema; 3 if the address or the database is not available.
    """
    settings = read_settings(context, quiet=False)

    address, number = host or settings.web_host, port or settings.web_port
    tls = settings.web_tls_cert is not None
    server.refuse_open_address(address, tls=tls, proxy=settings.web_proxy)
    engine = open_database(settings)
    try:
        purge.forget_again(settings, engine)  # the database may have been restored without `preread db restore`
        options = WebOptions(
            idle_s=60 * settings.web_idle_minutes,
            scan_interval_s=settings.scan_interval_s,
            roots=watched_paths(settings),
            preview_dir=previews.locate_preview_folder(settings.preview_dir, sqlite_path(engine)),
            pacs_url=settings.pacs_url,
            https=tls or settings.web_proxy is not None,
            tls=tls,
            proxy=settings.web_proxy,
            extend_report=partial(with_bundle_problem, settings, engine),
        )
        site = app.create_app(engine, options, settings.web_language)
        if not accounts.list_accounts(engine):
            print_message("no user exists yet: add one with `preread users add NAME --role reader`")
        print_message(f"the page is at {'https' if tls else 'http'}://{address}:{number}/")
        server.serve(
            site,
            (address, number),
            tls_cert=settings.web_tls_cert,
            tls_key=settings.web_tls_key,
            proxy=settings.web_proxy,
            notifier=Notifier.from_environment(os.environ),
        )
    finally:
        engine.dispose()
