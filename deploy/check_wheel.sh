#!/bin/sh
# Installs from a wheelhouse, without network, outside the tree, and uses what it installed, as a hospital would: unsigned
# by its flag only, then signed as a release is, with a key of its own (Debian package minisign).
# usage: check_wheel.sh PYTHON TAR
set -eu
python=$(realpath -s "$1")
archive=$(realpath "$2")
here=$(realpath "$(dirname "$0")")
place=$(mktemp -d "${TMPDIR:-/tmp}/preread-wheel.XXXXXX")
trap 'rm -rf "$place"' EXIT

tar -C "$place" -xf "$archive"
for page in SECURITY.md docs/administrators.md deploy/RUNBOOK.md deploy/prometheus/preread.rules.yml \
  deploy/grafana/preread.json deploy/fail2ban/jail.conf; do
  test -e "$place"/preread-*/"$page" || { echo "the tar lacks $page" >&2; exit 1; }
done
folder=$(echo "$place"/preread-*)
# where the kernel lets us, without any network at all; pip is told not to use one in either case
if unshare --net true 2>/dev/null; then alone="unshare --net"; else alone=""; fi
install() { $alone sh "$folder/install.sh" --prefix "$place/opt" --python "$python" --config "$place/none.toml" "$@"; }
if install 2>/dev/null; then echo "it installed what nobody signed" >&2; exit 1; fi
test ! -e "$place/opt" || { echo "it left something behind" >&2; exit 1; }
minisign -G -W -s "$place/check.key" -p "$place/check.pub" >/dev/null
sh "$here/sign.sh" "$folder" "$place/check.key" "preread $(cat "$folder/VERSION") $(cat "$folder/PLATFORM") commit none"
install --fleet --key "$place/check.pub"
if install 2>/dev/null; then echo "it installed over itself" >&2; exit 1; fi
"$place/opt/current/bin/python" -I -c 'import procrastinate'
ln -s opt/current "$place/venv"
cd "$place"
mkdir inbox

"$place/venv/bin/python" - <<'PYTHON'
import importlib.util
from importlib.metadata import files

tops = {file.parts[0] for file in files("preread") or [] if ".." not in file.parts}
assert {top for top in tops if not top.endswith(".dist-info")} == {"preread", "preread_training"}, tops
assert importlib.util.find_spec("tensorflow") is None
assert importlib.util.find_spec("pytest") is None

from pathlib import Path
from preread_training.data import phantoms

print(len(phantoms.write_examples(Path("inbox"))), "phantoms drawn")
PYTHON
"$place/venv/bin/preread" setup --dry-run --root "$place/tree" | grep -q '^would create the file .*preread-worker.service$'
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
