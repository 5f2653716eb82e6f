"""``install.sh`` with real signatures of minisign: who signed what it installs, and what it refuses."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.paths import DEPLOY

PLATFORM = f"cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}"

pytestmark = pytest.mark.minisign


class Keys(NamedTuple):
    """A pair of keys in a folder: NAME.key and NAME.pub."""

    secret: Path
    public: Path

    @property
    def line(self) -> str:
        return self.public.read_text().splitlines()[1]


Done = subprocess.CompletedProcess[str]


def called(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


def pair(folder: Path, name: str) -> Keys:
    keys = Keys(folder / f"{name}.key", folder / f"{name}.pub")
    called("minisign", "-G", "-W", "-s", keys.secret, "-p", keys.public)
    return keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return pair(tmp_path_factory.mktemp("keys"), "site")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return pair(tmp_path_factory.mktemp("keys"), "other")


def wheel(folder: Path, version: str) -> Path:
    """A wheel whose command ``preread`` answers as far as install.sh asks it."""
    path = folder / f"preread-{version}-py3-none-any.whl"
    info = f"preread-{version}.dist-info"
    members = {
        "stand_in.py": f"import sys\n\n\ndef main():\n    print('preread {version}', *sys.argv[1:])\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: preread\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\npreread = stand_in:main\n",
    }
    record = "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**members, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    return path


def unpacked(place: Path, version: str, signed_by: Keys | None, comment: str | None = None) -> Path:
    """An unpacked tar as wheelhouse.sh packs it, with a wheel that is quickly installed."""
    folder = place / f"preread-{version}-{PLATFORM}"
    (folder / "wheels").mkdir(parents=True)
    digest = hashlib.sha256(wheel(folder / "wheels", version).read_bytes()).hexdigest()
    for name in ("requirements.txt", "requirements-fleet.txt"):
        (folder / name).write_text(f"preread=={version} --hash=sha256:{digest}\n")
    (folder / "VERSION").write_text(f"{version}\n")
    (folder / "PLATFORM").write_text(f"{PLATFORM}\n")
    shutil.copy(DEPLOY / "install.sh", folder)
    words: list[str | Path] = (
        [signed_by.secret, comment or f"preread {version} {PLATFORM} commit {'a' * 40}"] if signed_by else []
    )
    called("sh", DEPLOY / "sign.sh", folder, *words)
    return folder


QUICK = f"""#!/bin/sh
case "$*" in
  "-I -c "*) exec {sys.executable} "$@" ;;
  "-I -m venv "*)
    mkdir -p "$4/bin"
    printf '#!/bin/sh\\n' | tee "$4/bin/python" >"$4/bin/preread"
    chmod +x "$4/bin/python" "$4/bin/preread" ;;
  *) exit 9 ;;
esac
"""


class Host:
    """A machine's prefix, and its way to install.

    Its interpreter makes an environment in no time, which is none; ``python`` may be set to a real one.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.prefix = place / "opt"
        self.python = place / "python"
        self.python.write_text(QUICK)
        self.python.chmod(0o755)

    def install(self, folder: Path, *options: str | Path, script: Path | None = None, path: str | None = None) -> Done:
        command: list[str | Path] = [
            "sh", script or folder / "install.sh", "--prefix", self.prefix, "--python", self.python,
            "--config", self.place / "none.toml", *options, *([folder] if script else []),
        ]  # fmt: skip
        environment = os.environ | {"PATH": path} if path else os.environ
        return subprocess.run(
            [str(word) for word in command],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.place,
        )

    def next(self, folder: Path, *options: str | Path) -> Done:
        """Install with the script that an earlier installation left."""
        return self.install(folder, *options, script=self.prefix / "install.sh")

    @property
    def in_use(self) -> str | None:
        current = self.prefix / "current"
        return os.readlink(current) if current.is_symlink() else None

    def left(self) -> set[str]:
        return {path.name for path in self.prefix.iterdir()} if self.prefix.exists() else set()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def installed(host: Host, keys: Keys) -> Host:
    """A host that trusts a key since its first installation."""
    assert host.install(unpacked(host.place, "1.0.0", keys), "--key", keys.public).returncode == 0
    return host


def test_the_first_installation_shows_and_pins_the_key_and_the_next_goes_by_it(host: Host, keys: Keys) -> None:
    host.python = Path(sys.executable)
    first = host.install(unpacked(host.place, "1.0.0", keys))
    assert first.returncode == 0, first.stderr
    assert keys.line in first.stdout
    assert "if the folder is forged, so is this key" in first.stdout
    assert f"signed: preread 1.0.0 {PLATFORM} commit {'a' * 40}" in first.stdout
    assert keys.line in (host.prefix / "release.pub").read_text()
    assert host.left() == {"1.0.0", "current", "install.sh", "release.pub"}
    second = host.next(unpacked(host.place, "1.1.0", keys))
    assert second.returncode == 0, second.stderr
    assert host.in_use == "1.1.0"
    assert "trusts the key" not in second.stdout
    assert subprocess.check_output([host.prefix / "current/bin/preread", "hello"], text=True) == "preread 1.1.0 hello\n"


def test_another_key_is_refused_however_it_comes(installed: Host, keys: Keys, other: Keys) -> None:
    forged = unpacked(installed.place, "1.1.0", other)
    choices: list[list[str | Path]] = [[], ["--key", other.public], ["--key", keys.public]]
    for options in choices:
        for way in (installed.next, installed.install):
            done = way(forged, *options)
            assert done.returncode == 1, done.stdout
            assert "trusted here" in done.stderr
    assert installed.in_use == "1.0.0"
    assert keys.line in (installed.prefix / "release.pub").read_text()
    assert installed.left() == {"1.0.0", "current", "install.sh", "release.pub"}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def resum(folder: Path) -> None:
    """What a forger does who has no key: the sums are right again, the signature stays."""
    called("sh", DEPLOY / "sign.sh", folder)


def flip_and_resum(folder: Path) -> None:
    flip(next((folder / "wheels").iterdir()))
    resum(folder)


def name_another_version(folder: Path) -> None:
    (folder / "VERSION").write_text("1.2.0\n")
    resum(folder)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte of a wheel": lambda folder: flip(next((folder / "wheels").iterdir())),
    "a byte of a wheel, and the sums": flip_and_resum,
    "the script": lambda folder: (folder / "install.sh").write_text("touch owned\n"),
    "a byte of the sums": lambda folder: flip(folder / "SHA256SUMS"),
    "a byte of the signature": lambda folder: flip(folder / "SHA256SUMS.minisig"),
    "the version": name_another_version,
    "one file less": lambda folder: (folder / "PLATFORM").unlink(),
    "one file more": lambda folder: (folder / "pip.py").write_text("open('owned', 'w')\n"),
    "one file more among the wheels": lambda folder: (folder / "wheels" / "other-1.0-py3-none-any.whl").touch(),
    "one file more that looks like sums": lambda folder: (folder / "wheels" / "SHA256SUMS").touch(),
    "a link": lambda folder: (folder / "more").symlink_to("/etc"),
    "a pipe": lambda folder: os.mkfifo(folder / "more"),
    "no signature": lambda folder: (folder / "SHA256SUMS.minisig").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_was_changed_after_signing_is_not_installed(
    host: Host, keys: Keys, change: Callable[[Path], object]
) -> None:
    folder = unpacked(host.place, "1.0.0", keys)
    shutil.copy(folder / "install.sh", host.place / "trusted.sh")
    change(folder)
    done = host.install(folder, "--key", keys.public, script=host.place / "trusted.sh")
    assert done.returncode == 1, done.stdout
    assert done.stderr
    assert not list(host.place.rglob("owned"))
    assert not host.prefix.exists()


def test_nothing_is_run_from_where_the_caller_stands(host: Host, keys: Keys) -> None:
    host.python = Path(sys.executable)
    for name in ("pip.py", "venv.py", "sitecustomize.py", "sysconfig.py"):
        (host.place / name).write_text("open('owned', 'w')\n")
    done = host.install(unpacked(host.place, "1.0.0", keys), "--key", keys.public)
    assert done.returncode == 0, done.stderr
    assert not list(host.place.rglob("owned"))


def test_a_signature_of_something_else_is_none(host: Host, keys: Keys) -> None:
    """The same key signs the list of what is published, and other versions."""
    for comment in (f"preread 1.0.0 {PLATFORM} release of commit x", f"preread 0.9.0 {PLATFORM} commit x", "anything"):
        folder = unpacked(host.place / str(len(comment)), "1.0.0", keys, comment)
        done = host.install(folder, "--key", keys.public)
        assert (done.returncode, "signature is for something else" in done.stderr) == (1, True)
    assert host.left() == set()


def test_what_nobody_signed_needs_its_flag_and_trusts_no_key(host: Host, keys: Keys) -> None:
    folder = unpacked(host.place, "1.0.0", None)
    refused = host.install(folder)
    assert refused.returncode == 1
    assert "--unsigned" in refused.stderr
    assert not host.prefix.exists()
    done = host.install(folder, "--unsigned")
    assert (done.returncode, "UNSIGNED" in done.stderr) == (0, True)
    assert host.left() == {"1.0.0", "current", "install.sh"}
    assert host.next(unpacked(host.place, "1.1.0", keys), "--key", keys.public).returncode == 0
    assert keys.line in (host.prefix / "release.pub").read_text()


def test_unsigned_keeps_the_key_that_is_trusted(installed: Host, keys: Keys) -> None:
    before = (installed.prefix / "release.pub").read_bytes()
    assert installed.next(unpacked(installed.place, "1.1.0", None)).returncode == 1
    assert installed.next(unpacked(installed.place / "x", "1.1.0", None), "--unsigned").returncode == 0
    assert (installed.prefix / "release.pub").read_bytes() == before


def test_the_key_changes_only_by_the_word_of_the_key_before(installed: Host, keys: Keys, other: Keys) -> None:
    folder = unpacked(installed.place, "1.1.0", other)
    announced = installed.place / "new.pub"
    shutil.copy(other.public, announced)
    assert installed.next(folder, "--new-key", announced).returncode == 2, "no signature of it"
    called("minisign", "-S", "-s", other.secret, "-m", announced)
    assert installed.next(folder, "--new-key", announced).returncode == 1, "signed by itself"
    assert installed.in_use == "1.0.0"
    called("minisign", "-S", "-s", keys.secret, "-m", announced)
    done = installed.next(folder, "--new-key", announced)
    assert done.returncode == 0, done.stderr
    assert other.line in (installed.prefix / "release.pub").read_text()
    assert installed.next(unpacked(installed.place, "1.2.0", keys)).returncode == 1, "the old key is out"


def test_an_older_version_needs_its_flag(installed: Host, keys: Keys) -> None:
    """An old release is signed as well, and lacks what was mended since."""
    older = unpacked(installed.place, "0.10.0", keys)
    done = installed.next(older)
    assert (done.returncode, "older than 1.0.0" in done.stderr) == (2, True)
    assert installed.in_use == "1.0.0"
    assert installed.next(older, "--older").returncode == 0
    assert installed.in_use == "0.10.0"


def test_a_host_without_minisign_is_told_what_to_install(host: Host, keys: Keys) -> None:
    tools = host.place / "tools"
    tools.mkdir()
    wanted = [
        "sh",
        "sed",
        "grep",
        "mktemp",
        "cp",
        "rm",
        "rmdir",
        "mkdir",
        "find",
        "dirname",
        "sha256sum",
        "sort",
        "cut",
    ]
    for tool in [*wanted, "cmp", "cat", "readlink", "tail", "ln", "mv", "tee", "chmod"]:
        (tools / tool).symlink_to(str(shutil.which(tool)))
    folder = unpacked(host.place, "1.0.0", keys)
    done = host.install(folder, "--key", keys.public, path=str(tools))
    assert (done.returncode, "Debian's package minisign" in done.stderr) == (2, True)
    assert "--unsigned" in done.stderr
    assert not host.prefix.exists()
    assert host.install(folder, "--unsigned", path=str(tools)).returncode == 0


def test_an_installation_that_fails_pins_nothing(host: Host, keys: Keys) -> None:
    host.python = Path(sys.executable)
    folder = unpacked(host.place, "1.0.0", None)
    (folder / "requirements.txt").write_text(f"preread==1.0.0 --hash=sha256:{'0' * 64}\n")
    called("sh", DEPLOY / "sign.sh", folder, keys.secret, f"preread 1.0.0 {PLATFORM} commit x")
    done = host.install(folder)
    assert done.returncode != 0
    assert "nothing was changed" in done.stderr
    assert host.left() == set()


@pytest.mark.parametrize("text", ["", "RWshort\n", "untrusted comment: x\nRWshort\n", "x\nRW" + "A" * 53 + "\n"])
def test_a_key_of_another_form_is_named(host: Host, keys: Keys, text: str) -> None:
    (host.place / "bad.pub").write_text(text)
    done = host.install(unpacked(host.place, "1.0.0", keys), "--key", host.place / "bad.pub")
    assert (done.returncode, "is no public key" in done.stderr) == (2, True)
    assert not host.prefix.exists()
