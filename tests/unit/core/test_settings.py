"""What an operator writes wrongly must be named, never passed over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from docs._ext.settings_table import describe
from preread.core.addresses import parse_listen_address
from preread.core.errors import SettingsError
from preread.core.settings import PREFIX, Settings, load_settings
from preread.core.types import Population


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("PREREAD_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_need_no_environment_and_no_file() -> None:
    settings = load_settings()
    assert settings.database_url == "sqlite:///preread.db"
    assert settings.roots == ()


def test_a_mistyped_environment_name_is_named_with_its_nearest_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREREAD_DATABSE_URL", "sqlite:///elsewhere.db")
    with pytest.raises(SettingsError, match=r"PREREAD_DATABSE_URL; did you mean PREREAD_DATABASE_URL\?"):
        load_settings()


def test_a_name_like_no_other_lists_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREREAD_QQQQQQ", "1")
    with pytest.raises(SettingsError, match="there are PREREAD_DATABASE_URL, "):
        load_settings()


def test_lower_case_names_count_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("preread_slotz", "1")
    with pytest.raises(SettingsError, match="preread_slotz; did you mean PREREAD_SLOTS"):
        load_settings()


@pytest.mark.parametrize(
    "name", ["PREREAD_SERVICE_HOST", "PREREAD_PORT", "PREREAD_PORT_8000_TCP_ADDR", "PREREAD_DB_SERVICE_PORT_SQL"]
)
def test_the_names_that_kubernetes_injects_are_nobodys_mistake(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    load_settings()


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "preread.toml").write_text('slots = 3\nlog_level = "debug"\n')
    monkeypatch.setenv("PREREAD_SLOTS", "5")
    settings = load_settings()
    assert settings.slots == 5
    assert settings.log_level == "debug"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREREAD_SLOTS", "")
    assert load_settings().slots == Settings.model_fields["slots"].default


def test_a_mistyped_key_of_the_file_is_named_with_its_nearest_match(tmp_path: Path) -> None:
    (tmp_path / "preread.toml").write_text("slot = 3\n")
    with pytest.raises(SettingsError, match=r"preread\.toml: there is no setting 'slot'; did you mean slots"):
        load_settings()


def test_roots_of_the_file_lie_relative_to_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    config = folder / "site.toml"
    config.write_text(
        '[[roots]]\npath = "inbox"\npopulation = "children-1-5y"\n\n[[roots]]\npath = "/films"\npoll = true\n'
    )
    first, second = load_settings(config).roots
    assert first.path == folder / "inbox"
    assert first.population is Population.CHILDREN_1_5Y
    assert second.path == Path("/films")
    assert second.population is Population.UNDECLARED
    assert second.poll is True


def test_a_mistyped_key_of_a_root_is_named(tmp_path: Path) -> None:
    (tmp_path / "preread.toml").write_text('[[roots]]\npath = "a"\npopulaton = "research"\n')
    with pytest.raises(SettingsError, match="no key 'populaton'; did you mean population"):
        load_settings()


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_of_a_root_is_refused_and_not_taken_for_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: Any
) -> None:
    config = tmp_path / "preread.toml"
    config.write_text(f'[[roots]]\npath = "{path}"\n')
    with pytest.raises(SettingsError, match=r"roots in preread\.toml: the path of a root is empty: name a folder"):
        load_settings()
    config.unlink()
    monkeypatch.setenv("PREREAD_ROOTS", f'[{{"path": "/films"}}, {{"path": "{path}"}}]')
    with pytest.raises(SettingsError, match="PREREAD_ROOTS: the path of a root is empty"):
        load_settings()


def test_an_unknown_population_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "preread.toml").write_text('[[roots]]\npath = "a"\npopulation = "adults"\n')
    with pytest.raises(SettingsError, match="'undeclared', 'children-1-5y' or 'research'"):
        load_settings()


def test_roots_of_the_environment_are_paths_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREREAD_ROOTS", os.pathsep.join(["/a", "/b"]))
    assert [root.path for root in load_settings().roots] == [Path("/a"), Path("/b")]
    monkeypatch.setenv("PREREAD_ROOTS", '[{"path": "/c", "population": "research"}]')
    (root,) = load_settings().roots
    assert (root.path, root.population) == (Path("/c"), Population.RESEARCH)


@pytest.mark.parametrize("roots", ["/films:/films", "/films:/films/today", "/films/today:/films/"])
def test_a_root_in_another_is_refused(monkeypatch: pytest.MonkeyPatch, roots: Any) -> None:
    monkeypatch.setenv("PREREAD_ROOTS", roots.replace(":", os.pathsep))
    with pytest.raises(SettingsError, match="/films/"):
        load_settings()


def test_neighbours_with_a_common_beginning_are_no_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREREAD_ROOTS", os.pathsep.join(["/films", "/films2"]))
    assert len(load_settings().roots) == 2


@pytest.mark.parametrize(
    "name, value",
    [
        ("PREREAD_SLOTS", "many"),
        ("PREREAD_SLOTS", "0"),
        ("PREREAD_SETTLE_S", "-1"),
        ("PREREAD_DEADLINE_S", "nan"),
        ("PREREAD_SCAN_INTERVAL_S", "inf"),
        ("PREREAD_LOG_LEVEL", "loud"),
        ("PREREAD_ROOTS", "[{"),
    ],
)
def test_a_value_that_cannot_be_meant_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: Any, value: Any
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load_settings()


def test_no_message_repeats_a_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", "postgresql://preread:geheim@db/preread")
    monkeypatch.setenv("PREREAD_SLOTS", "many")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "geheim" not in str(caught.value)
    monkeypatch.delenv("PREREAD_SLOTS")
    assert "geheim" not in repr(load_settings())


def test_a_named_file_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.toml.*cannot be read"):
        load_settings(tmp_path / "missing.toml")
    monkeypatch.setenv("PREREAD_CONFIG", str(tmp_path / "also-missing.toml"))
    with pytest.raises(SettingsError, match=r"also-missing\.toml"):
        load_settings()


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "preread.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not TOML"):
        load_settings()


@pytest.mark.parametrize(
    "text, cure",
    [
        (
            '[roots]\npath = "/srv/films"\n',
            r'a line \[\[roots\]\], with two brackets, and below it path = "/srv/images"',
        ),
        ('slots = "many"\n', r"slots in preread\.toml: Input should be a valid integer.*, such as 2$"),
        ("slots = 0\n", r"greater than or equal to 1, such as 2$"),
        ('deadline_s = "soon"\n', r"valid number.*, such as 60$"),
        ('alarm_webhook = "chat.example.org"\n', r"form of, for example, https://chat\.example\.org/hooks/preread"),
        ('pacs_url = "http://pacs"\n', r"form of, for example, https://pacs\.example\.org/view\?study=\{study_inst"),
        ('web_language = "Deutsch"\n', r"form of, for example, en$"),
        ('alarm_mail_to = "it"\n', r"form of, for example, it@example\.org"),
        ('[[roots]]\npath = "D:\\Films"\n', r"single quotes: 'D:\\images'"),
        ('[[roots]]\npath = "C:\\Users\\x"\n', r"single quotes: 'D:\\images'"),
        ('[[roots]]\npath = "D:\\xray"\n', r"single quotes: 'D:\\images'"),
    ],
)
def test_a_message_says_how_it_would_be_right(tmp_path: Path, text: Any, cure: Any) -> None:
    (tmp_path / "preread.toml").write_text(text)
    with pytest.raises(SettingsError, match=cure):
        load_settings()


def test_every_setting_with_a_form_has_an_example_of_it() -> None:
    for name, field in Settings.model_fields.items():
        if any(getattr(one, "pattern", None) for one in field.metadata):
            assert field.examples, name
            assert getattr(Settings(**{name: field.examples[0]}), name) == field.examples[0]


@pytest.mark.parametrize("separator", [",", ";", ", "])
def test_paths_with_another_separator_are_not_taken_for_one(monkeypatch: pytest.MonkeyPatch, separator: Any) -> None:
    monkeypatch.setenv("PREREAD_ROOTS", f"/srv/a{separator}/srv/b")
    with pytest.raises(SettingsError, match=rf"separated by ':', not '{separator.strip()}'"):
        load_settings()
    monkeypatch.setenv("PREREAD_ROOTS", "/srv/a,b:/srv/c;d")
    assert [str(root.path) for root in load_settings().roots] == ["/srv/a,b", "/srv/c;d"]


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().slots = 9  # type: ignore[misc]  # the assignment that must fail


def test_every_setting_is_explained_and_has_its_unit_in_its_name() -> None:
    for row in describe():
        assert row.help, row.env
        assert row.env.startswith(PREFIX)
        if "seconds" in row.help or "seconds" in row.value:
            assert row.env.endswith("_S"), row.env
        assert row.value


def test_a_setting_says_its_unit_and_range() -> None:
    said = {row.key: row.value for row in describe()}
    assert said["settle_s"] == "seconds, 0 to 3,600"
    assert said["slot_memory_bytes"] == "bytes, from 536,870,912"
    assert said["slots"] == "whole number, 1 to 64"
    assert said["preview_dir"] == "path"
    assert said["log_json"] == "`true` or `false`"


@pytest.mark.parametrize(
    "text, address",
    [("127.0.0.1:8321", ("127.0.0.1", 8321)), ("[::1]:1", ("::1", 1)), ("host.example:65535", ("host.example", 65535))],
)
def test_an_address_to_listen_on(monkeypatch: pytest.MonkeyPatch, text: Any, address: Any) -> None:
    monkeypatch.setenv("PREREAD_HEALTH_LISTEN", text)
    listen = load_settings().health_listen
    assert listen is not None
    assert parse_listen_address(listen) == address


@pytest.mark.parametrize(
    "text", ["8321", ":8321", "127.0.0.1", "127.0.0.1:", "h:0", "h:65536", "h:x", "::1:80", "[h]:1x"]
)
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, text: Any) -> None:
    monkeypatch.setenv("PREREAD_HEALTH_LISTEN", text)
    with pytest.raises(SettingsError, match=r"PREREAD_HEALTH_LISTEN: is not an address with a port"):
        load_settings()
