"""``make corpus DIR=...``: assess every DICOM file below a folder, and compare its rendering with that of DCMTK.

``preread assess`` decides on each file, in its confined processes. A second process renders each file to 8-bit grey
levels, and so does DCMTK, with the first VOI LUT or window. Prints one row for each folder below DIR, and below the
table each file that differs by more than one grey level, is shown by DCMTK alone, or has an outcome without a name.

Exits with 1 if an outcome has no name or a file ended its process, with 2 if DCMTK is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections import Counter
from pathlib import Path

import preread
from preread.core.errors import PrereadError, UnreadableError
from preread.core.types import Declared, Outcome, Population
from preread.imaging.dicom_file import looks_like_dicom
from preread.model.bundles import Bundle
from preread.runner.assess_files import FileResult, assess_files
from tests.corpus.comparison import PROGRAMS, Comparison, compare_all

_HEADER_BYTES = 4096


def dicom_files(folder: Path) -> list[Path]:
    """Return the files below a folder that begin as DICOM files do, sorted; links are left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if looks_like_dicom(file.read(_HEADER_BYTES)):
                    found.append(path)
    return found


def _is_named(result: FileResult) -> bool:
    """Return whether the outcome is a result, or has a code that describes the file."""
    if result.outcome is Outcome.ASSESSED:
        return True
    return result.judged and result.code not in {None, UnreadableError.code, PrereadError.code}


def report(folder: Path, files: list[Path], results: list[FileResult], comparisons: list[Comparison]) -> list[str]:
    """Return the lines of the report: a Markdown table by folder, and a list of files to look at."""
    groups: dict[str, list[int]] = {}
    for number, path in enumerate(files):
        parts = path.relative_to(folder).parts
        groups.setdefault(parts[0] if len(parts) > 1 else ".", []).append(number)
    titles = (
        "folder",
        "files",
        "outcomes",
        "equal",
        "differs",
        "DCMTK alone",
        "Preread alone",
        "not compared",
        "slowest",
    )
    lines = [f"| {' | '.join(titles)} |", "| --- | --: | --- | --: | --: | --: | --: | --: | --: |"]
    for group, numbers in [*groups.items(), ("all", list(range(len(files))))]:
        codes = Counter(results[number].code or results[number].outcome.value for number in numbers)
        words = Counter(comparisons[number].word for number in numbers)
        columns = [
            group,
            str(len(numbers)),
            ", ".join(f"{code} {count}" for code, count in codes.most_common()),
            *(str(words[word]) for word in ("equal", "differs", "dcmtk alone", "preread alone")),
            str(words["not comparable"] + words["neither"]),
            f"{max(results[number].ms for number in numbers) / 1000:.1f} s",
        ]
        lines.append(f"| {' | '.join(columns)} |")
    for word in ("differs", "dcmtk alone"):
        found = [number for number, comparison in enumerate(comparisons) if comparison.word == word]
        if found:
            lines += ["", f"{word}:", ""]
            lines += [f"- `{files[number].relative_to(folder)}`: {comparisons[number].remark}" for number in found]
    unnamed = [result for result in results if not _is_named(result)]
    if unnamed:
        lines += ["", "outcomes without a name:", ""]
        lines += [f"- `{Path(one.path).relative_to(folder)}`: {one.code}: {one.reason}" for one in unnamed]
    return lines


def run(folder: Path, bundle: Bundle) -> int:
    """Print the report of a folder; return the exit code."""
    files = dicom_files(folder)
    if not files:
        sys.stderr.write(f"{folder} holds no DICOM file\n")
        return 2
    with contextlib.closing(assess_files(files, bundle, Declared(Population.RESEARCH))) as assessed:
        results = list(assessed)
    sys.stdout.write("\n".join(report(folder, files, results, list(compare_all(files)))) + "\n")
    return 0 if all(map(_is_named, results)) else 1


def main(arguments: list[str]) -> int:
    """Check the arguments and DCMTK, and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    if not folder.is_dir():
        parser.error(f"{folder} is no folder")
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        parser.error(f"DCMTK is missing ({', '.join(missing)}): install it (Debian: apt-get install dcmtk)")
    return run(folder.resolve(), preread.load_bundle().bundle)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
