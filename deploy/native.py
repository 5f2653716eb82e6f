"""Native libraries inside installed packages, with their versions.

A version comes from the best source that there is, and the source is recorded with it: the library's own version
function, a text of fixed form in the file, what the package reports at run time, or the SBOM in its wheel (PEP 770).
The number in a file's name is that of its interface and no version. What stays is recorded as unknown.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"


class NotLookedInto(Exception):
    """``LINKED`` does not name the libraries linked into a native package."""


@dataclass
class Library:
    """A native library inside a package.

    Attributes:
        version: ``None`` if it cannot be read.
        source: where the version comes from.
        files: path in the package and SHA-256 of each file that is this library; empty if it is linked into a module.
        stated: entry of the wheel's SBOM, unchanged.
    """

    name: str
    version: str | None = None
    source: str = UNKNOWN
    files: dict[str, str] = field(default_factory=dict)
    stated: dict[str, Any] = field(default_factory=dict)


@dataclass
class Native:
    """Native content of a package.

    Attributes:
        modules: SHA-256 of the package's own modules, by path.
        libraries: libraries inside the package, by name.
    """

    modules: dict[str, str]
    libraries: dict[str, Library]


# --------------------------------------------------------------------------- versions that the libraries return


def _text(function: Any) -> str:
    function.restype = ctypes.c_char_p
    found = re.search(r"\d+(\.\d+)+", function(0).decode())
    if not found:
        raise ValueError(f"{function.__name__} returns no version")
    return found[0]


def _number(*parts: int) -> Callable[[Any], str]:
    """Return a decoder of a version in one number.

    2 * 10000 + 5 * 100 + 1 with (10000, 100, 1) is 2.5.1.
    """

    def read(function: Any) -> str:
        function.restype = ctypes.c_uint32
        left, version = function(), []
        for part in parts:
            version.append(str(left // part))
            left %= part
        return ".".join(version)

    return read


_BYTES = _number(1 << 16, 1 << 8, 1)
# By library, since a name that it lacks is looked up in what it needs. More than one: as its parts have them.
_FUNCTIONS: dict[str, dict[str, Callable[[Any], str]]] = {
    "aom": {"aom_codec_version_str": _text},
    "avif": {"avifVersion": _text},
    "brotli": dict.fromkeys(("BrotliDecoderVersion", "BrotliEncoderVersion"), _number(1 << 24, 1 << 12, 1)),
    "c-blosc": {"blosc_get_version_string": _text},
    "c-blosc2": {"blosc2_get_version_string": _text},
    "charls": {"charls_get_version_string": _text},
    "harfbuzz": {"hb_version_string": _text},
    "jxl": {"JxlDecoderVersion": _number(1000000, 1000, 1)},
    "lz4": {"LZ4_versionString": _text},
    "lzma": {"lzma_version_string": _text},
    "openblas": dict.fromkeys(("scipy_openblas_get_config64_", "scipy_openblas_get_config"), _text),
    "openjpeg": {"opj_version": _text},
    "png": {"png_access_version_number": _number(10000, 100, 1)},
    "pq": {"PQlibVersion": _number(10000, 1)},
    "tiff": {"TIFFGetVersion": _text},
    "webp": dict.fromkeys(("WebPGetDecoderVersion", "WebPGetDemuxVersion", "WebPGetMuxVersion"), _BYTES),
    "zstd": {"ZSTD_versionString": _text},
}
_TEXTS = {
    "keyutils": rb"keyutils-([\d.]+)\0",
    "krb5": rb"KRB5_BRAND: krb5-([\d.]+)-",
    "openssl": rb"OpenSSL (\d+\.\d+\.\d+) ",
    "tensorflow-lite": rb"\0(\d+\.\d+\.\d+[a-z0-9.+-]*\+selfbuilt)\0",
}


def _version_in(path: Path, library: str) -> tuple[str, str] | None:
    """Return version and source of a library from the file that holds it."""
    if library in _TEXTS and (found := re.search(_TEXTS[library], path.read_bytes())):
        return found[1].decode(), "text in the file"
    if library in _FUNCTIONS:
        loaded = ctypes.CDLL(str(path))
        for name, read in _FUNCTIONS[library].items():
            if hasattr(loaded, name):
                return read(getattr(loaded, name)), f"{name}() of the file"
    return None


# --------------------------------------------------------------------------- versions as the packages report them


Reported = dict[str, tuple[str, str] | None]
_AT_RUN_TIME = "reported by the package at run time"


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _pillow() -> Reported:
    features = _module("PIL.features")
    names = {"freetype2": "freetype", "libjpeg_turbo": "jpeg-turbo", "raqm": "raqm", "zlib_ng": "zlib-ng"}
    return {name: (features.version(key), _AT_RUN_TIME) for key, name in names.items() if features.check(key)}


def _imagecodecs() -> Reported:
    told = _module("imagecodecs").version(dict)
    not_libraries = {"imagecodecs", "cython", "numpy", "numpy_abi"}
    return {
        _canonical(name): None if version == UNKNOWN else (version.split("/")[0], _AT_RUN_TIME)
        for name, version in told.items()
        if name not in not_libraries and version not in {"n/a", told["imagecodecs"]}
    }


def _openjpeg() -> Reported:
    return {"openjpeg": (_module("_openjpeg").get_version().decode(), _AT_RUN_TIME)}


def _charls() -> Reported:
    return {"charls": _version_in(Path(_module("_CharLS").__file__), "charls")}


def _isal() -> Reported:
    return {"isa-l": (_module("isal").ISAL_VERSION, _AT_RUN_TIME)}


def _litert() -> Reported:
    common = Path(_module("ai_edge_litert").__file__).with_name("libpywrap_litert_common.so")
    linked = (
        "abseil", "cpuinfo", "dawn", "eigen", "farmhash", "fft2d", "flatbuffers", "gemmlowp", "protobuf", "pthreadpool",
        "ruy", "xnnpack",
    )  # fmt: skip
    return {"tensorflow-lite": _version_in(common, "tensorflow-lite"), **dict.fromkeys(linked)}


def _unknown(*names: str) -> Callable[[], Reported]:
    return lambda: dict.fromkeys(names)


# What is linked into the modules of each native package. A package that is not here was not looked into: an error.
LINKED: dict[str, Callable[[], Reported]] = {
    "ai-edge-litert": _litert,
    "argon2-cffi-bindings": _unknown("argon2"),
    "cffi": _unknown("ffi"),
    "imagecodecs": _imagecodecs,
    "isal": _isal,
    "markupsafe": _unknown(),
    "ml-dtypes": _unknown("eigen"),
    "numpy": _unknown("pocketfft"),
    "pillow": _pillow,
    "protobuf": _unknown("upb"),
    "psycopg-binary": _unknown(),
    "pydantic-core": _unknown(),
    "pyjpegls": _charls,
    "pylibjpeg-openjpeg": _openjpeg,
    "sqlalchemy": _unknown(),
}

# --------------------------------------------------------------------------- one name for one library

_NAMES = {
    "blosc": "c-blosc",
    "blosc2": "c-blosc2",
    "brotlicommon": "brotli",
    "brotlidec": "brotli",
    "brotlienc": "brotli",
    "crypto": "openssl",
    "cyrus-sasl-lib": "cyrus-sasl",
    "gif": "giflib",
    "gssapi_krb5": "krb5",
    "jpeg": "jpeg-turbo",
    "jpeg / libjpeg-turbo": "jpeg-turbo",
    "jpegxr": "jxrlib",
    "jxl_cms": "jxl",
    "jxl_threads": "jxl",
    "jxrglue": "jxrlib",
    "k5crypto": "krb5",
    "keyutils-libs": "keyutils",
    "krb5support": "krb5",
    "lber": "openldap",
    "ldap": "openldap",
    "little cms 2": "lcms2",
    "lzhamcomp": "lzham",
    "lzhamdecomp": "lzham",
    "lzhamdll": "lzham",
    "lzokay-c": "lzokay",
    "openjp2": "openjpeg",
    "png16": "png",
    "png-apng": "png",
    "cpcodec": "pcodec",
    "sasl2": "cyrus-sasl",
    "scipy_openblas": "openblas",
    "scipy_openblas64_": "openblas",
    "sharpyuv": "webp",
    "ssl": "openssl",
    "sz": "aec",
    "sz3c": "sz3",
    "uhdr": "ultrahdr",
    "webpdemux": "webp",
    "webpmux": "webp",
}


def _canonical(name: str) -> str:
    bare = name.lower().removeprefix("lib")
    bare = _NAMES.get(bare, bare).replace("_", "-")
    return _NAMES.get(bare, bare)


def library_of(path: Path) -> str:
    """Return the name of the library in a shared object.

    Without the hash that auditwheel adds, and without the version of the interface.
    """
    stem, interface = re.fullmatch(r"(.+?)(?:-[0-9a-f]{8}){0,2}\.so\.?([\d.]*)", path.name).groups()  # type: ignore[union-attr]
    return "krb5" if (stem, interface[:2]) == ("libcom_err", "3.") else _canonical(stem)


def is_native(path: Path) -> bool:
    """Return whether a file is an ELF program or shared object."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stated(distribution: importlib.metadata.Distribution) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield SBOM name and component of all SBOMs in a wheel.

    Without the package itself and its modules.
    """
    own = re.sub(r"[-_.]+", "-", distribution.name).lower()
    for file in sorted(distribution.files or [], key=str):
        if "sboms" not in file.parts or file.suffix != ".json":
            continue
        document = json.loads(Path(str(file.locate())).read_text(encoding="utf-8"))
        for component in document.get("components", []):
            name = re.sub(r"[-_.]+", "-", component["name"]).lower()
            if name != own and "#c-ext/" not in component.get("purl", "") and component.get("scope") != "excluded":
                yield file.name, component


def inside(name: str) -> Native | None:
    """Return the native content of an installed package, if it has any.

    Raises:
        PackageNotFoundError: the package is not installed.
        NotLookedInto: the package is native and not in ``LINKED``.
    """
    distribution = importlib.metadata.distribution(name)
    found = {str(file): Path(str(file.locate())) for file in distribution.files or []}
    native = {file: path for file, path in sorted(found.items()) if is_native(path)}
    if not native:
        return None
    if name not in LINKED:
        raise NotLookedInto(
            f"{name} has {len(native)} native files; add the libraries linked into them to LINKED in deploy/native.py"
        )
    reported = LINKED[name]()  # first: it loads the modules, and with them what their libraries need of each other
    modules: dict[str, str] = {}
    libraries: dict[str, Library] = {}
    for file, path in native.items():
        if not path.parent.name.endswith(".libs"):
            modules[file] = _sha256(path)
            continue
        library = libraries.setdefault(key := library_of(path), Library(key))
        library.files[file] = _sha256(path)
        if library.version is None and (told := _version_in(path, key)):
            library.version, library.source = told
    for key, told in reported.items():
        library = libraries.setdefault(key, Library(key))
        if library.version is None and told:
            library.version, library.source = told
    for document, component in _stated(distribution):
        key = _canonical(component["name"])
        if key == "zlib" and "zlib-ng" in libraries:
            key = "zlib-ng"
        if "cargo/" in component.get("purl", ""):
            key = f"{component['name']}@{component['version']}"  # one crate may be there in two versions
        if component.get("scope") == "optional" and key not in libraries:
            continue  # it could be built in, and nothing here says that it is
        library = libraries.setdefault(key, Library(key.split("@")[0]))
        library.stated = component
        if library.version is None and component.get("version"):
            library.version, library.source = component["version"], f"{document} in the wheel"
    return Native(modules, libraries)


def interpreter() -> dict[str, str]:
    """Return the versions of this Python and of the libraries in it, by name."""
    return {
        "CPython": sys.version.split()[0],
        "Expat": _module("pyexpat").EXPAT_VERSION.removeprefix("expat_"),
        "OpenSSL": _module("ssl").OPENSSL_VERSION.split()[1],
        "SQLite": _module("sqlite3").sqlite_version,
        "zlib": _module("zlib").ZLIB_RUNTIME_VERSION,
    }
