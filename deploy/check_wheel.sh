#!/bin/sh
# Installs a wheel into a new environment outside the tree and uses it there, as a hospital would.
# usage: check_wheel.sh PYTHON WHEEL
set -eu
python=$1
wheel=$(realpath "$2")
locks=$(realpath "$(dirname "$0")/../requirements")
place=$(mktemp -d "${TMPDIR:-/tmp}/preread-wheel.XXXXXX")
trap 'rm -rf "$place"' EXIT

"$python" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install -qq --require-hashes --only-binary :all: -r "$locks/runtime.txt"
"$place/venv/bin/python" -m pip install -qq --no-deps "$wheel"
cd "$place"
mkdir inbox

"$place/venv/bin/python" - <<'PYTHON'
import importlib.util
from importlib.metadata import files

tops = {file.parts[0] for file in files("preread") or [] if ".." not in file.parts}
assert {top for top in tops if not top.endswith(".dist-info")} == {"worker", "model_training"}, tops
assert importlib.util.find_spec("tensorflow") is None
assert importlib.util.find_spec("pytest") is None

from pathlib import Path
from model_training import phantoms

print(len(phantoms.write_examples(Path("inbox"))), "phantoms drawn")
PYTHON
"$place/venv/bin/preread" --help >/dev/null
"$place/venv/bin/preread-train" --help >/dev/null
"$place/venv/bin/preread" db upgrade
"$place/venv/bin/preread" db check
"$place/venv/bin/preread" bundle verify
"$place/venv/bin/preread" check --root inbox
"$place/venv/bin/preread" assess inbox >/dev/null
"$place/venv/bin/preread" --log-level warning run --root inbox --once
results=$("$place/venv/bin/preread" results --json | wc -l)
drawn=$(find inbox -type f | wc -l)
test "$results" -eq "$drawn" || { echo "$results results of $drawn films" >&2; exit 1; }
echo "the wheel works outside the tree: $results results of $drawn films"
