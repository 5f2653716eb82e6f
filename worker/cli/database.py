"""``preread db``: the database's schema."""

from __future__ import annotations

import typer

from worker.cli import door, output

app = typer.Typer(help="The database and its schema.", no_args_is_help=True)


@app.command("upgrade")
def upgrade(context: typer.Context) -> None:
    """Create the schema, or bring it up to this version; does nothing when it is.

    Exit code: 0 when it fits now; 2 when the database was made by a newer version or cannot be used; 3 when it is away.
    """
    settings = door.of(context).settings()
    from worker import store

    engine = store.open_engine(settings.database_url)
    try:
        store.upgrade(engine)
        store.check_schema(engine)
    finally:
        engine.dispose()
    output.say(f"the schema of {show_url(settings.database_url)} is that of this version")


@app.command("check")
def check(context: typer.Context) -> None:
    """Say whether the database's schema fits this version.

    Exit code: 0 when it fits; 2 when it is older, newer or missing; 3 when the database is away.
    """
    settings = door.of(context).settings()
    door.open_database(settings).dispose()
    output.say(f"the schema of {show_url(settings.database_url)} is that of this version")


def show_url(database_url: str) -> str:
    """Return a database URL without its password."""
    from sqlalchemy import make_url

    return make_url(database_url).render_as_string(hide_password=True)
