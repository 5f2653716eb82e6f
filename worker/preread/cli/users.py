"""``preread users``: manage user accounts."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from preread.cli import output
from preread.cli.context import command_database, read_settings
from preread.cli.invoking_user import actor, ask_password, is_interactive
from preread.cli.messages import print_message
from preread.core.errors import UsageError
from preread.core.types import Role
from preread.review.auth import accounts, sessions
from preread.review.results import format_utc

app = typer.Typer(help="Manage user accounts.", no_args_is_help=True)
RoleName = Literal["reader", "admin", "service"]
_Name = Annotated[str, typer.Argument(help="user name: a to z, digits, dots, dashes, underscores")]


@app.command("add")
def add(
    context: typer.Context,
    name: _Name,
    role: Annotated[
        RoleName,
        typer.Option(
            help="reader: views images and signs reviews. admin: statistics and the audit trail. service: a program "
            "that uses the API with a token"
        ),
    ],
    full_name: Annotated[str, typer.Option(help="name shown with reviews; default: the user name")] = "",
) -> None:
    """Add a user.

    The password is asked for at the terminal, or read from standard input; it is never an argument.

    A program (role service) gets a token instead, which is printed once and is valid for PREREAD_API_TOKEN_DAYS.

    Exit code: 0; 2 if the name is taken or invalid, or the password is too short or easy to guess.
    """
    password = None if role == "service" else _ask_password(name)
    days = read_settings(context).api_token_days
    with command_database(context) as engine:
        account = accounts.NewAccount(name, full_name, Role(role), password)
        token = accounts.add_account(engine, actor(), account, token_days=days)
    _print_outcome(f"added {name} ({role})", token)


@app.command("passwd")
def passwd(context: typer.Context, name: _Name) -> None:
    """Set a new password, or create a new token.

    All sessions of the user end.

    Exit code: 0; 2 if there is no such user, or the password is too short, easy to guess or unchanged.
    """
    days = read_settings(context).api_token_days
    with command_database(context) as engine:
        found = accounts.find_account(engine, name)
        password = None if found.role is Role.SERVICE else _ask_password(found.name)
        token = accounts.renew_secret(engine, actor(), name, password, token_days=days)
    _print_outcome(f"{name} has a new {'token' if token else 'password'}", token)


@app.command("disable")
def disable(context: typer.Context, name: _Name) -> None:
    """Disable a user.

    Reviews that the user signed stay.

    Exit code: 0; 2 if there is no such user.
    """
    with command_database(context) as engine:
        accounts.disable_account(engine, actor(), name)
    print_message(f"{name} is disabled")


@app.command("options")
def options(
    context: typer.Context,
    name: _Name,
    read_before_reveal: Annotated[
        bool,
        typer.Option(
            "--read-before-reveal/--answer-at-once",
            help="show this reader the AI result only after the review or on request; or at once",
            show_default=False,
        ),
    ],
) -> None:
    """Set the display options of a reader.

    The reader can change them on the page.

    Exit code: 0; 2 if there is no such user, or the user is not a reader.
    """
    with command_database(context) as engine:
        accounts.set_read_before_reveal(engine, actor(), accounts.find_account(engine, name), read_before_reveal)
    print_message(f"{name} sees AI results {'after the review, or on request' if read_before_reveal else 'at once'}")


@app.command("list")
def list_users(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record per user")] = False,
) -> None:
    """List the users.

    Exit code: 0, also if there is none.
    """
    with command_database(context) as engine:
        users = accounts.list_accounts(engine)
    if json:
        for user in users:
            disabled_at = user.disabled_at and format_utc(user.disabled_at)
            created_at = format_utc(user.created_at)
            record = {"name": user.name, "full_name": user.full_name, "role": user.role.value, "created_at": created_at}
            options = {"disabled_at": disabled_at, "read_before_reveal": user.read_before_reveal}
            expires = {"token_expires_at": user.token_expires_at and format_utc(user.token_expires_at)}
            output.print_json({"id": user.account_id, **record, **options, **expires})
        return
    rows = [
        (
            str(user.account_id),
            user.name,
            user.full_name,
            user.role.value,
            "after review" if user.read_before_reveal else "",
            f"{user.token_expires_at:%Y-%m-%d}" if user.token_expires_at else "",
            "disabled" if user.disabled_at else "",
        )
        for user in users
    ]
    output.print_table(("id", "user", "name", "role", "AI result", "token until", ""), rows, medical=False)


@app.command("sessions")
def list_sessions(
    context: typer.Context,
    name: _Name,
    end: Annotated[int | None, typer.Option("--end", min=1, help="end the session with this ID")] = None,
    end_all: Annotated[bool, typer.Option("--end-all", help="end all sessions of this user")] = False,
) -> None:
    """List or end the web sessions of a user.

    Exit code: 0, also if there is none; 2 if there is no such user or session.
    """
    idle_s = 60 * read_settings(context).web_idle_minutes
    with command_database(context) as engine:
        found = accounts.find_account(engine, name)
        if end is not None or end_all:
            ended = sessions.end_sessions(engine, actor(), found, only=None if end_all else end)
            if not (ended or end_all):
                raise UsageError(f"{name} has no session {end}: `preread users sessions {name}` lists them")
            print_message(f"{ended} sessions of {name} ended")
            return
        signed_in = sessions.list_sessions(engine, found.account_id, idle_s)
    rows = [
        (
            str(session.session_id),
            f"{session.created_at:%Y-%m-%d %H:%M} UTC",
            f"{session.seen_at:%H:%M} UTC",
            session.address or "",
        )
        for session in signed_in
    ]
    output.print_table(("id", "since", "last used", "from"), rows, medical=False)


def _ask_password(name: str) -> str:
    password = ask_password(f"Password for {name}: ")
    if is_interactive() and ask_password("Repeat the password: ") != password:
        raise UsageError("the two passwords differ: enter the same password twice")
    return password


def _print_outcome(what: str, token: str | None) -> None:
    print_message(what)
    if token is not None:
        print_message("its token, shown only once:")
        output.print_text(token)
