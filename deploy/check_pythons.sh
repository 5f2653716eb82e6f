#!/bin/sh
# Tries the wheel with each supported Python but the given one: what is on the PATH or below pyenv; names the others.
# In an environment of its own with the locked dependencies: every module is imported with warnings as errors, and all
# synthetic images get the results that the given Python gives.
# usage: check_pythons.sh PYTHON WHEEL      (PYTHON's environment holds Preread)
set -eu
given=$(realpath -s "$1")
wheel=$(realpath "$2")
tree=$(realpath "$(dirname "$0")/..")
place=$(mktemp -d "${TMPDIR:-/tmp}/preread-pythons.XXXXXX")
trap 'rm -rf "$place"' EXIT
trap 'exit 1' HUP INT TERM
cd "$place"

is_version() { [ "$("$2" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$1" ]; }
find_python() {
  for each in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if is_version "$1" "$each"; then
      echo "$each"
      return
    fi
  done
}
# the results of all synthetic images, to stdout
assess() {
  [ -e images ] || {
    mkdir images
    "$given" -I -c 'from pathlib import Path
from preread_training.data import phantoms
phantoms.write_examples(Path("images"))'
  }
  "$1" assess --population children-1-5y --json images
}

assess "$(dirname "$given")/preread" >given.json
for version in 3.11 3.12 3.13; do
  if is_version "$version" "$given"; then continue; fi
  python=$(find_python "$version")
  if [ -z "$python" ]; then
    echo "not run: python$version is neither on the PATH nor below pyenv"
    continue
  fi
  "$python" -I -m venv "$version"
  "$version/bin/python" -I -m pip --disable-pip-version-check install -qq --require-hashes --only-binary :all: \
    -r "$tree/requirements/fleet.txt"
  "$version/bin/python" -I -m pip --disable-pip-version-check install -qq --no-deps --no-index "$wheel"
  assess "$version/bin/preread" >"$version.json"
  "$version/bin/python" -I -X dev -W error - "$version.json" given.json <<'PYTHON'
import importlib
import json
import pkgutil
import sys

import preread

names = [one.name for one in pkgutil.walk_packages(preread.__path__, "preread.") if not one.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)


def results(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


here, given = map(results, sys.argv[1:])
assert len(here) == len(given) > 20, f"{len(here)} results, {len(given)} with the other Python"
for mine, theirs in zip(here, given, strict=True):
    for finding, same in zip(mine["findings"], theirs["findings"], strict=True):
        difference = abs(finding.pop("probability") - same.pop("probability"))
        assert difference < 1e-4, f"{mine['path']}: the probability differs by {difference}"
        del finding["predictive_values"], same["predictive_values"]
    del mine["ms"], theirs["ms"]
    assert mine == theirs, f"{mine}\nis, with the other Python,\n{theirs}"
print(f"python{sys.version_info[0]}.{sys.version_info[1]}: {len(names)} modules imported, {len(here)} results are the same")
PYTHON
done
