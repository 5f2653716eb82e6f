"""What an operator may set: environment variables ``PREREAD_*`` and an optional ``preread.toml``.

Read once at the door (``cli``, ``daemon``) and passed on as arguments; nothing further in looks here. What decides an
answer (input size, calibration, operating point, intended use) is no setting: it stands in the bundle's manifest.
An unknown name is an error, because a setting that is silently not applied is found out too late.
"""

from __future__ import annotations

import difflib
import itertools
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from preread.core.addresses import ADDRESS, ADDRESSES, parse_listen_address, parse_mail_server
from preread.core.errors import SettingsError
from preread.core.types import RootSpec

PREFIX = "PREREAD_"
CONFIG_FILE = "preread.toml"
# Names that other parts of the project own: where the file of settings lies, and where the tests find training films.
OTHER_NAMES = frozenset({"PREREAD_CONFIG", "PREREAD_FILMS"})
# Kubernetes hands every container such names for a service called "preread"; they are nobody's mistake.
_SERVICE_LINK = re.compile(r"PREREAD_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)\w*)?)")
# A list of paths as other settings write lists; the next path begins as one does.
_OTHER_SEPARATOR = re.compile(r"([,;])\s*[/~.]")
_ROOT_KEYS = tuple(field.name for field in fields(RootSpec))
_MIB = 1024 * 1024


class LogLevel(StrEnum):
    """From this level on a log line is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Settings(BaseSettings):
    """All settings. An environment variable wins over ``preread.toml``, which wins over the default."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    database_url: str = Field(
        default="sqlite:///preread.db",
        min_length=1,
        repr=False,
        description="SQLAlchemy URL of the database: a SQLite file on a local disk, or `postgresql://user@host/name`",
    )
    bundle: str | None = Field(
        default=None,
        description="bundle to use: a name, `name/version` or a folder; unset: the one that `preread bundle activate` "
        "chose, else the newest that ships",
    )
    bundle_dir: Path | None = Field(
        default=None,
        description="folder of the bundles that `preread bundle add` takes in; unset: beside the SQLite file, and none "
        "with Postgres",
    )
    roots: Annotated[tuple[RootSpec, ...], NoDecode] = Field(
        default=(),
        description="watched folders: `[[roots]]` tables in preread.toml with `path`, `population`, `path_pattern` and "
        "`poll`; in the environment the same as a JSON list, or plain paths with `:` between them",
    )
    slots: int = Field(default=2, ge=1, le=64, description="child processes that read films, one film each at a time")
    scan_interval_s: float = Field(
        default=30.0, ge=0.1, le=86_400, allow_inf_nan=False, description="seconds between full scans of a root"
    )
    settle_s: float = Field(
        default=2.0,
        ge=0.0,
        le=3_600,
        allow_inf_nan=False,
        description="seconds for which size and mtime must stand still before a file on a local disk is read",
    )
    network_settle_s: float = Field(
        default=10.0, ge=0.0, le=3_600, allow_inf_nan=False, description="the same on a network share"
    )
    deadline_s: float = Field(
        default=60.0,
        ge=1.0,
        le=3_600,
        allow_inf_nan=False,
        description="seconds after which the process that reads one film is killed",
    )
    slot_memory_bytes: int = Field(
        default=2048 * _MIB,
        ge=512 * _MIB,
        description="address space that one slot may use; more than this ends the film as `slot_memory`",
    )
    lease_s: float = Field(
        default=120.0,
        ge=5.0,
        le=86_400,
        allow_inf_nan=False,
        description="seconds after which another worker may take over the films of one that fell silent",
    )
    max_file_bytes: int = Field(default=200 * _MIB, ge=1024, description="larger files are not read (`too_many_bytes`)")
    max_pixels: int = Field(
        default=64_000_000,
        ge=1024,
        description="films with more rows x columns x samples are not decoded (`too_many_pixels`)",
    )
    min_free_bytes: int = Field(
        default=500 * _MIB,
        ge=0,
        description="free space on the database's disk below which `preread check` objects, and on the previews' disk "
        "below which none is kept",
    )
    preview_dir: Path | None = Field(
        default=None,
        description="folder for previews of films; unset: beside the SQLite file, and none are kept with Postgres",
    )
    forgotten_file: Path | None = Field(
        default=None,
        description="file in which `preread purge` remembers by keyed hashes what was forgotten, for when a backup is "
        "restored; unset: beside the SQLite file, and none with Postgres, where purge is refused then",
    )
    require_confinement: bool = Field(
        default=False,
        description="refuse to run where the kernel lacks seccomp or Landlock, which confine the processes that read "
        "films; else `preread check` and `preread status` say so",
    )
    audit_key_file: Path | None = Field(
        default=None,
        description="file with the key of the audit trail, which nobody who may write to the database should be able "
        "to read; unset: beside the SQLite file, with Postgres in the unit's state folder, and none elsewhere",
    )
    web_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="address on which `preread web` listens; another needs TLS or a proxy",
    )
    web_port: int = Field(default=8350, ge=1, le=65535, description="port on which `preread web` listens")
    web_tls_cert: Path | None = Field(default=None, description="certificate chain (PEM) of `preread web`")
    web_tls_key: Path | None = Field(default=None, description="its private key (PEM)")
    web_proxy: str | None = Field(
        default=None,
        min_length=1,
        description="addresses or networks, with `,` between them, of the proxy that brings TLS: its `X-Forwarded-*` "
        "are believed, and plain HTTP is taken from it alone; `*` believes whoever reaches the port",
    )
    web_idle_minutes: float = Field(
        default=30.0,
        ge=1,
        le=720,
        allow_inf_nan=False,
        description="minutes without a request after which a session ends",
    )
    api_token_days: int = Field(
        default=365, ge=1, le=3650, description="days for which a new token of a program (role service) is valid"
    )
    web_language: str = Field(
        default="en", pattern=r"^[a-z]{2,3}$", description="language of the page, one of its files", examples=["en"]
    )
    pacs_url: str | None = Field(
        default=None,
        pattern=r"^https?://.*\{study_instance_uid\}",
        description="where *Open in PACS* leads: a URL with `{study_instance_uid}` in it; unset: no such link",
        examples=["https://pacs.example.org/view?study={study_instance_uid}"],
    )
    health_listen: str | None = Field(
        default=None,
        description="`host:port` on which `preread run` answers `GET /health` (200, or 503 when critical) and "
        "`GET /metrics`, such as `127.0.0.1:8321`; each process of `preread fleet work` does so on the first free port "
        "after it; unset: none is opened",
    )
    health_hosts: str | None = Field(
        default=None,
        pattern=r"^[^\s,]+(\s*,\s*[^\s,]+)*$",
        description="names and addresses, with `,` between them, by which others ask for `/health` and `/metrics`, "
        "such as `xray-desk-1`, or `*` for any; unset: `health_listen` opens on this machine alone",
        examples=["xray-desk-1, 10.0.0.5"],
    )
    alarm_mail_server: str | None = Field(
        default=None,
        repr=False,
        description="mail server through which `preread alarm watch` tells: `smtp://host:25`, "
        "`starttls://user:password@host:587` or `smtps://user:password@host:465`",
    )
    alarm_mail_to: str | None = Field(
        default=None,
        pattern=ADDRESSES,
        description="addresses that get its mail, with `,` between them",
        examples=["it@example.org, radiology@example.org"],
    )
    alarm_mail_from: str | None = Field(
        default=None,
        pattern=ADDRESS,
        description="address that its mail comes from; unset: `preread@` and this host",
        examples=["preread@example.org"],
    )
    alarm_webhook: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s]+$",
        repr=False,
        description="URL to which it posts a JSON record instead, or as well",
        examples=["https://chat.example.org/hooks/preread"],
    )
    alarm_after_s: float = Field(
        default=60.0,
        ge=0.0,
        le=86_400,
        allow_inf_nan=False,
        description="seconds for which something must be critical, or well again, before anybody is told",
    )
    log_level: LogLevel = Field(
        default=LogLevel.INFO, description="`debug`, `info`, `warning` or `error`; only `debug` names full paths"
    )
    log_json: bool | None = Field(
        default=None, description="log as JSON Lines; unset: yes unless standard error is a terminal"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over what ``load`` read from the file; no ``.env``, no secrets folder."""
        return (env_settings, init_settings)

    @field_validator("health_listen")
    @classmethod
    def _read_address(cls, value: str | None) -> str | None:
        if value is not None:
            parse_listen_address(value)
        return value

    @field_validator("alarm_mail_server")
    @classmethod
    def _read_mail_server(cls, value: str | None) -> str | None:
        if value is not None:
            parse_mail_server(value)
        return value

    @field_validator("roots", mode="before")
    @classmethod
    def _read_roots(cls, value: Any) -> Any:
        if isinstance(value, str):
            text = value.strip()
            if not text.startswith("["):
                paths = [path for path in text.split(os.pathsep) if path]
                if several := next((found for path in paths if (found := _OTHER_SEPARATOR.search(path))), None):
                    raise ValueError(
                        f"paths stand with {os.pathsep!r} between them, not {several[1]!r}; a path that holds one is "
                        'named in a JSON list: [{"path": "/srv/a,/b"}]'
                    )
                return [{"path": path} for path in paths]
            try:
                value = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"is no JSON list: {error}") from None
        if not isinstance(value, list | tuple):
            raise ValueError(  # noqa: TRY004  pydantic wants ValueError
                "must be a list of tables, each with a path: in preread.toml a line [[roots]], with two brackets, and "
                'below it path = "/srv/films"'
            )
        for root in value:
            if isinstance(root, Mapping):
                for key in root:
                    if key not in _ROOT_KEYS:
                        raise ValueError(f"a root has no key {key!r}{_did_you_mean(str(key), _ROOT_KEYS)}")
                path = root.get("path")
                if isinstance(path, str) and not path.strip():
                    # an empty path would mean the working folder, which nobody can have meant
                    raise ValueError("a root's path is empty: name a folder")
        return value


def load(config: Path | None = None) -> Settings:
    """Read the settings from the environment and the TOML file.

    Args:
        config: the file; ``None`` takes ``PREREAD_CONFIG``, else ``preread.toml`` in the working folder if it is there.

    Raises:
        SettingsError: a name is unknown (the message gives the nearest one) or a value cannot be meant.
    """
    _refuse_unknown_names(os.environ)
    path = config or (Path(named) if (named := os.environ.get("PREREAD_CONFIG")) else None)
    if path is None and os.path.lexists(CONFIG_FILE):
        path = Path(CONFIG_FILE)
    from_file = _read_toml(path) if path is not None else {}
    try:
        settings = Settings(**from_file)
    except ValidationError as error:
        raise SettingsError(_explain(error, path, PREFIX, Settings.model_fields)) from None
    base = path.parent if path is not None and "PREREAD_ROOTS" not in {name.upper() for name in os.environ} else Path()
    roots = tuple(replace(root, path=base / root.path.expanduser()) for root in settings.roots)
    refuse_overlapping(roots)
    return settings.model_copy(update={"roots": roots})


def refuse_overlapping(roots: Iterable[RootSpec]) -> None:
    """Refuse a folder that is named twice or lies in another root: two declarations would hold for one file.

    Raises:
        SettingsError: names both.
    """
    # compared as written: resolving links would wait for a share that does not answer
    ordered = sorted(os.path.join(os.path.abspath(root.path), "") for root in roots)
    for first, second in itertools.pairwise(ordered):
        if second.startswith(first):
            raise SettingsError(
                f"the root {second!r} is named twice" if first == second else f"the root {second!r} lies in {first!r}"
            )


def refuse_within(root: RootSpec, own: Path | None, what: str, setting: str) -> None:
    """Refuse a place of Preread's own in a watched folder: it writes nothing there, and would take itself for films.

    Args:
        own: the SQLite file or the folder of previews.
        what: the same in words.
        setting: the variable that names it.

    Raises:
        SettingsError: names both.
    """
    if own is not None and Path(os.path.abspath(own)).is_relative_to(os.path.abspath(root.path)):
        raise SettingsError(
            f"the {what} {own} lies in the watched folder {os.path.abspath(root.path)}: put it elsewhere "
            f"({setting}), or watch another folder"
        )


def _known_names() -> list[str]:
    return [PREFIX + name.upper() for name in Settings.model_fields] + sorted(OTHER_NAMES)


def _refuse_unknown_names(environ: Mapping[str, str]) -> None:
    known = _known_names()
    for name in sorted(environ):
        upper = name.upper()
        if upper.startswith(PREFIX) and upper not in known and not _SERVICE_LINK.fullmatch(upper):
            raise SettingsError(f"there is no setting {name}{_did_you_mean(upper, known)}")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"the file of settings {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        said = f"the file of settings {str(path)!r} is not TOML: {error}"
        if isinstance(error, tomllib.TOMLDecodeError) and ("'\\'" in str(error) or "hex" in str(error)):
            said += "; a path with backslashes stands in single quotes: 'D:\\films'"
        raise SettingsError(said) from None
    for key in content:
        if key not in Settings.model_fields:
            raise SettingsError(f"{path}: there is no setting {key!r}{_did_you_mean(key, Settings.model_fields)}")
    return content


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """Name the nearest of the known names, or all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(names)}"


def _explain(error: ValidationError, path: Path | None, prefix: str, settings: Mapping[str, FieldInfo]) -> str:
    """Say of each value that cannot be meant where it stands, what is wrong, and how one looks that is right.

    Args:
        path: the file of settings, if there is one.
        prefix: of a setting's variable in the environment.
        settings: all of them.
    """
    in_environment = {name.upper() for name, value in os.environ.items() if value}
    parts = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        setting, *rest = (str(part) for part in item["loc"])
        env = prefix + setting.upper()
        place = "".join(f" [{part}]" for part in rest)
        where = env if env in in_environment or path is None else f"{setting} in {path}"
        parts.append(f"{where}{place}: {_in_words(item['type'], item['msg'], settings.get(setting))}")
    return "; ".join(parts)


def _in_words(kind: str, message: str, field: FieldInfo | None) -> str:
    if kind == "string_pattern_mismatch" and field is not None and field.examples:
        return f"does not have the form of, for example, {field.examples[0]}"
    said = message.removeprefix("Value error, ")
    wants_number = kind.startswith(("int_", "float_", "greater_than", "less_than", "finite"))
    return f"{said}, such as {field.default:g}" if wants_number and field is not None and field.default else said
