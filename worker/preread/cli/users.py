"""``preread users``: who may look and sign."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from preread.cli import context as door
from preread.cli import output
from preread.cli.invoking_user import actor, ask_password, is_interactive
from preread.core.errors import UsageError
from preread.core.types import Role
from preread.review.auth import accounts, sessions
from preread.review.results import iso

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
            help="reader: looks at films and signs. admin: statistics and the audit trail. service: a program "
            "that uses the API by a token"
        ),
    ],
    full_name: Annotated[str, typer.Option(help="as it stands beside readings; default: the user name")] = "",
) -> None:
    """Add a user.

    The password is asked for at the terminal, or read from standard input; it is never an argument.

    A program (role service) gets a token instead, which is printed this once and is valid for PREREAD_API_TOKEN_DAYS.

    Exit code: 0; 2 when the name is taken or unusable, or the password is too short or easily guessed.
    """
    password = None if role == "service" else _ask_password(name)
    days = door.read_settings(context).api_token_days
    with door.database(context) as engine:
        token = accounts.add(
            engine, actor(), accounts.NewAccount(name, full_name, Role(role), password), token_days=days
        )
    _tell(f"added {name} ({role})", token)


@app.command("passwd")
def passwd(context: typer.Context, name: _Name) -> None:
    """Set a new password, or create a new token.

    All sessions of the user end.

    Exit code: 0; 2 when there is no such user, or the password is too short, easily guessed or the present one.
    """
    days = door.read_settings(context).api_token_days
    with door.database(context) as engine:
        found = accounts.by_name(engine, name)
        password = None if found.role is Role.SERVICE else _ask_password(found.name)
        token = accounts.renew_secret(engine, actor(), name, password, token_days=days)
    _tell(f"{name} has a new {'token' if token else 'password'}", token)


@app.command("disable")
def disable(context: typer.Context, name: _Name) -> None:
    """Disable a user.

    Reviews that the user signed stay.

    Exit code: 0; 2 when there is no such user.
    """
    with door.database(context) as engine:
        accounts.disable(engine, actor(), name)
    output.say(f"{name} is disabled")


@app.command("options")
def options(
    context: typer.Context,
    name: _Name,
    read_before_reveal: Annotated[
        bool,
        typer.Option(
            "--read-before-reveal/--answer-at-once",
            help="show a film's answer to this reader only after the reading, or when asked for; or at once",
            show_default=False,
        ),
    ],
) -> None:
    """Set the display options of a reader.

    The reader can change them on the page.

    Exit code: 0; 2 when there is no such user, or it is no reader.
    """
    with door.database(context) as engine:
        accounts.set_read_before_reveal(engine, actor(), accounts.by_name(engine, name), read_before_reveal)
    output.say(f"{name} sees answers {'after reading, or on demand' if read_before_reveal else 'at once'}")


@app.command("list")
def list_users(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record a user")] = False,
) -> None:
    """List the users.

    Exit code: 0, also when there is none.
    """
    with door.database(context) as engine:
        everyone = accounts.all_accounts(engine)
    if json:
        for one in everyone:
            disabled_at = one.disabled_at and iso(one.disabled_at)
            created_at = iso(one.created_at)
            record = {"name": one.name, "full_name": one.full_name, "role": one.role.value, "created_at": created_at}
            options = {"disabled_at": disabled_at, "read_before_reveal": one.read_before_reveal}
            expires = {"token_expires_at": one.token_expires_at and iso(one.token_expires_at)}
            output.print_json({"id": one.account_id, **record, **options, **expires})
        return
    rows = [
        (
            str(one.account_id),
            one.name,
            one.full_name,
            one.role.value,
            "after reading" if one.read_before_reveal else "",
            f"{one.token_expires_at:%Y-%m-%d}" if one.token_expires_at else "",
            "disabled" if one.disabled_at else "",
        )
        for one in everyone
    ]
    output.print_table(("id", "user", "name", "role", "answers", "token until", ""), rows, medical=False)


@app.command("sessions")
def list_sessions(
    context: typer.Context,
    name: _Name,
    end: Annotated[int | None, typer.Option("--end", min=1, help="end the session of this number")] = None,
    end_all: Annotated[bool, typer.Option("--end-all", help="end every session of this user")] = False,
) -> None:
    """List or end the web sessions of a user.

    Exit code: 0, also when there is none; 2 when there is no such user or session.
    """
    idle_s = 60 * door.read_settings(context).web_idle_minutes
    with door.database(context) as engine:
        found = accounts.by_name(engine, name)
        if end is not None or end_all:
            ended = sessions.end_sessions(engine, actor(), found, only=None if end_all else end)
            if not (ended or end_all):
                raise UsageError(f"{name} has no session {end}: `preread users sessions {name}` shows them")
            output.say(f"{ended} sessions of {name} ended")
            return
        signed_in = sessions.of_account(engine, found.account_id, idle_s)
    rows = [
        (str(one.session_id), f"{one.created_at:%Y-%m-%d %H:%M} UTC", f"{one.seen_at:%H:%M} UTC", one.address or "")
        for one in signed_in
    ]
    output.print_table(("id", "since", "last used", "from"), rows, medical=False)


def _ask_password(name: str) -> str:
    password = ask_password(f"Password for {name}: ")
    if is_interactive() and ask_password("The same again: ") != password:
        raise UsageError("the password was not typed twice in the same way")
    return password


def _tell(what: str, token: str | None) -> None:
    output.say(what)
    if token is not None:
        output.say("its token, shown this once:")
        output.print_text(token)
