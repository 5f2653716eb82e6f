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
"$place/venv/bin/python" -m pip install --quiet --require-hashes --only-binary :all: -r "$locks/runtime.txt"
"$place/venv/bin/python" -m pip install --quiet --no-deps "$wheel"
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

print("phantoms drawn by", Path(phantoms.__file__).parent.name)
PYTHON
"$place/venv/bin/preread" --help >/dev/null
"$place/venv/bin/preread-train" --help >/dev/null
"$place/venv/bin/preread" db upgrade
"$place/venv/bin/preread" db check
"$place/venv/bin/preread" bundle verify
"$place/venv/bin/preread" check --root inbox
"$place/venv/bin/preread" run --root inbox --once
echo "the wheel works outside the tree"
