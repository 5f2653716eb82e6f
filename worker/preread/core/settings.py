"""Settings from the environment (``PREREAD_*``) and ``preread.toml``.

The entry points read them once and pass them on as arguments. What determines a result (input size, calibration,
operating point, intended use) is not a setting but part of the bundle's manifest. An unknown name is an error, so that
no misspelt setting is silently ignored.
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
# Names that are no settings: the path of the settings file, and that of the training images for the tests.
OTHER_NAMES = frozenset({"PREREAD_CONFIG", "PREREAD_FILMS"})
# Kubernetes sets such variables in every container for a service called "preread"; they are not mistakes.
_SERVICE_LINK = re.compile(r"PREREAD_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)\w*)?)")
# A list of paths with another separator, followed by the beginning of a path.
_OTHER_SEPARATOR = re.compile(r"([,;])\s*[/~.]")
_ROOT_KEYS = tuple(field.name for field in fields(RootSpec))
_MIB = 1024 * 1024


class LogLevel(StrEnum):
    """Lowest level of log lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Settings(BaseSettings):
    """All settings; environment variables override ``preread.toml``."""

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
        description="bundle to use: a name, `name/version` or a folder; unset: the one chosen with `preread bundle "
        "activate`, else the newest that ships with Preread",
    )
    bundle_dir: Path | None = Field(
        default=None,
        description="folder of the bundles added with `preread bundle add`; unset: beside the SQLite file, and none "
        "with Postgres",
    )
    roots: Annotated[tuple[RootSpec, ...], NoDecode] = Field(
        default=(),
        description="watched folders: `[[roots]]` tables in preread.toml with `path`, `population`, `path_pattern` and "
        "`poll`; in the environment the same as a JSON list, or plain paths with `:` between them",
    )
    slots: int = Field(
        default=2, ge=1, le=64, description="inference processes, each of which reads one file at a time"
    )
    scan_interval_s: float = Field(
        default=30.0,
        ge=0.1,
        le=86_400,
        allow_inf_nan=False,
        description="seconds between full scans of a watched folder",
    )
    settle_s: float = Field(
        default=2.0,
        ge=0.0,
        le=3_600,
        allow_inf_nan=False,
        description="seconds for which size and mtime must be unchanged before a file on a local disk is read",
    )
    network_settle_s: float = Field(
        default=10.0, ge=0.0, le=3_600, allow_inf_nan=False, description="the same on a network share"
    )
    deadline_s: float = Field(
        default=60.0,
        ge=1.0,
        le=3_600,
        allow_inf_nan=False,
        description="seconds after which the inference process of one file is killed",
    )
    slot_memory_bytes: int = Field(
        default=2048 * _MIB,
        ge=512 * _MIB,
        description="address space of one inference process in bytes; a file that needs more fails as `slot_memory`",
    )
    lease_s: float = Field(
        default=120.0,
        ge=5.0,
        le=86_400,
        allow_inf_nan=False,
        description="seconds after which another worker may take over the files of a worker without heartbeat",
    )
    max_file_bytes: int = Field(
        default=200 * _MIB, ge=1024, description="size in bytes above which a file is not read (`too_many_bytes`)"
    )
    max_pixels: int = Field(
        default=64_000_000,
        ge=1024,
        description="rows x columns x samples above which an image is not decoded (`too_many_pixels`)",
    )
    min_free_bytes: int = Field(
        default=500 * _MIB,
        ge=0,
        description="free bytes on the database's disk below which `preread check` reports a problem, and on the "
        "previews' disk below which no preview is stored",
    )
    preview_dir: Path | None = Field(
        default=None,
        description="folder for previews of images; unset: beside the SQLite file, and no previews with Postgres",
    )
    forgotten_file: Path | None = Field(
        default=None,
        description="file in which `preread purge` records keyed hashes of what was purged, to purge it again when a "
        "backup is restored; unset: beside the SQLite file; with Postgres purge is refused without it",
    )
    require_confinement: bool = Field(
        default=False,
        description="refuse to run if the kernel lacks seccomp or Landlock, which confine the inference processes; "
        "else `preread check` and `preread status` report it",
    )
    vocabulary_file: Path | None = Field(
        default=None,
        description="TOML file with words of the site's devices for views, body parts and species, in addition to "
        "those that Preread knows; `docs/reference/images.md` has its form",
    )
    audit_key_file: Path | None = Field(
        default=None,
        description="file with the key of the audit trail, which accounts that may write to the database should not "
        "be able to read; unset: beside the SQLite file, with "
        "Postgres in the unit's state folder, and none elsewhere",
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
        description="addresses or networks, separated by `,`, of the proxy that terminates TLS: its `X-Forwarded-*` "
        "headers are trusted, and plain HTTP is accepted from it only; `*` trusts any client",
    )
    web_idle_minutes: float = Field(
        default=30.0,
        ge=1,
        le=720,
        allow_inf_nan=False,
        description="minutes without a request after which a session ends",
    )
    api_token_days: int = Field(
        default=365,
        ge=1,
        le=3650,
        description="days for which a new token of an account with the role service is valid",
    )
    web_language: str = Field(
        default="en", pattern=r"^[a-z]{2,3}$", description="language of the page, one of its files", examples=["en"]
    )
    pacs_url: str | None = Field(
        default=None,
        pattern=r"^https?://.*\{study_instance_uid\}",
        description="target of *Open in PACS*: a URL with `{study_instance_uid}` in it; unset: no such link",
        examples=["https://pacs.example.org/view?study={study_instance_uid}"],
    )
    health_listen: str | None = Field(
        default=None,
        description="`host:port` on which `preread run` answers `GET /health` (200, or 503 when critical) and "
        "`GET /metrics`, such as `127.0.0.1:8321`; each process of `preread fleet work` does so on the first free port "
        "after it; unset: no port is opened",
    )
    health_hosts: str | None = Field(
        default=None,
        pattern=r"^[^\s,]+(\s*,\s*[^\s,]+)*$",
        description="names and addresses, separated by `,`, by which clients request `/health` and `/metrics`, such as "
        "`xray-desk-1`, or `*` for any; unset: `health_listen` accepts requests from this machine only",
        examples=["xray-desk-1, 10.0.0.5"],
    )
    alarm_mail_server: str | None = Field(
        default=None,
        repr=False,
        description="mail server through which `preread alarm watch` sends alarms: `smtp://host:25`, "
        "`starttls://user:password@host:587` or `smtps://user:password@host:465`",
    )
    alarm_mail_to: str | None = Field(
        default=None,
        pattern=ADDRESSES,
        description="addresses of its recipients, separated by `,`",
        examples=["it@example.org, radiology@example.org"],
    )
    alarm_mail_from: str | None = Field(
        default=None,
        pattern=ADDRESS,
        description="address of its sender; unset: `preread@` and this host",
        examples=["preread@example.org"],
    )
    alarm_webhook: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s]+$",
        repr=False,
        description="URL to which it posts a JSON record, instead of or in addition to mail",
        examples=["https://chat.example.org/hooks/preread"],
    )
    alarm_after_s: float = Field(
        default=60.0,
        ge=0.0,
        le=86_400,
        allow_inf_nan=False,
        description="seconds for which a state must be critical, or recovered, before an alarm is sent",
    )
    log_level: LogLevel = Field(
        default=LogLevel.INFO, description="`debug`, `info`, `warning` or `error`; only `debug` logs full paths"
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
        """Give the environment precedence over the file; no ``.env``, no secrets."""
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
                        f"paths are separated by {os.pathsep!r}, not "
                        f"{several[1]!r}; write a path that contains it in a JSON "
                        'list: [{"path": "/srv/a,/b"}]'
                    )
                return [{"path": path} for path in paths]
            try:
                value = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"is not a JSON list: {error}") from None
        if not isinstance(value, list | tuple):
            raise ValueError(  # noqa: TRY004  pydantic wants ValueError
                "must be a list of tables, each with a path: in preread.toml a line [[roots]], with two brackets, and "
                'below it path = "/srv/images"'
            )
        for root in value:
            if isinstance(root, Mapping):
                for key in root:
                    if key not in _ROOT_KEYS:
                        raise ValueError(f"a root has no key {key!r}{_did_you_mean(str(key), _ROOT_KEYS)}")
                path = root.get("path")
                if isinstance(path, str) and not path.strip():
                    # an empty path would mean the working folder, which cannot be intended
                    raise ValueError("the path of a root is empty: name a folder")
        return value


def load_settings(config: Path | None = None) -> Settings:
    """Read the settings from the environment and the TOML file.

    Args:
        config: the file; ``None`` uses ``PREREAD_CONFIG``, else ``preread.toml`` in the working folder if it exists.

    Raises:
        SettingsError: a name is unknown (the message gives the nearest one) or a value is invalid.
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
    refuse_overlapping_roots(roots)
    return settings.model_copy(update={"roots": roots})


def refuse_overlapping_roots(roots: Iterable[RootSpec]) -> None:
    """Raise an error if watched folders are equal or lie in each other.

    Two declarations would apply to one file.

    Raises:
        SettingsError: two overlap; the message names both.
    """
    # compared as written: resolving links would wait for a share that does not answer
    ordered = sorted(os.path.join(os.path.abspath(root.path), "") for root in roots)
    for first, second in itertools.pairwise(ordered):
        if second.startswith(first):
            raise SettingsError(
                f"the watched folder {second!r} is given twice"
                if first == second
                else f"the watched folder {second!r} lies in the watched folder {first!r}"
            )


def refuse_inside_root(root: RootSpec, own: Path | None, what: str, setting: str) -> None:
    """Raise an error if a file of Preread lies in a watched folder.

    Args:
        root: the watched folder.
        own: the SQLite file or the folder of previews; ``None`` passes.
        what: its name for the message.
        setting: the variable that sets it.

    Raises:
        SettingsError: it is; the message names both.
    """
    if own is not None and Path(os.path.abspath(own)).is_relative_to(os.path.abspath(root.path)):
        raise SettingsError(
            f"the {what} {own} is in the watched folder {os.path.abspath(root.path)}: put it elsewhere "
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
        raise SettingsError(f"the settings file {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"the settings file {str(path)!r} is not TOML: {error}"
        if isinstance(error, tomllib.TOMLDecodeError) and ("'\\'" in str(error) or "hex" in str(error)):
            message += "; write a path with backslashes in single quotes: 'D:\\images'"
        raise SettingsError(message) from None
    for key in content:
        if key not in Settings.model_fields:
            raise SettingsError(f"{path}: there is no setting {key!r}{_did_you_mean(key, Settings.model_fields)}")
    return content


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suggestion: the nearest known name, or all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(names)}"


def _explain(error: ValidationError, path: Path | None, prefix: str, settings: Mapping[str, FieldInfo]) -> str:
    """Return a message on each invalid value: where it is set, and the error.

    Args:
        error: the errors of pydantic.
        path: the file of settings; ``None`` if there is none.
        prefix: prefix of the environment variables.
        settings: all settings by name.
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
    text = message.removeprefix("Value error, ")
    wants_number = kind.startswith(("int_", "float_", "greater_than", "less_than", "finite"))
    return f"{text}, such as {field.default:g}" if wants_number and field is not None and field.default else text
