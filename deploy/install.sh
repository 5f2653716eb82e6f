#!/bin/sh
# Installs Preread from the folder that this script lies in, without any network, beside earlier versions:
#   PREFIX/VERSION   an environment of its own for each version, and PREFIX/current, the one that is in use
# The new one is checked (and the database upgraded, where there is one) before it comes into use; else nothing changes.
# usage: install.sh [--prefix /opt/preread] [--python python3] [--config /etc/preread/preread.toml]
set -eu
umask 022
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
prefix=/opt/preread
python=python3
config=/etc/preread/preread.toml
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) prefix=$2 ;;
    --python) python=$2 ;;
    --config) config=$2 ;;
    *) echo "usage: install.sh [--prefix DIR] [--python PYTHON] [--config FILE]" >&2; exit 2 ;;
  esac
  shift 2
done
version=$(cat "$here/VERSION")
wanted=$(cat "$here/PLATFORM")
found=$("$python" -c 'import sys, sysconfig
print(f"cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}")')
if [ "$found" != "$wanted" ]; then
  echo "this is for $wanted, and $python is $found: name another with --python, or get the tar for it" >&2
  exit 2
fi
(cd "$here" && sha256sum --quiet --check SHA256SUMS) || { echo "the folder is not whole: copy the tar again" >&2; exit 1; }
target=$prefix/$version
if [ -e "$target" ]; then
  echo "$target is there already: to install it again, remove it first" >&2
  exit 2
fi
mkdir -p "$prefix"
undo() { rm -rf "$target"; echo "nothing was changed: the version that was in use still is" >&2; }
trap undo EXIT
"$python" -m venv "$target"
(cd "$here" && "$target/bin/python" -m pip --disable-pip-version-check install -q --no-index --find-links wheels \
  --require-hashes --only-binary :all: -r requirements.txt)
"$target/bin/preread" bundle verify
if [ -e "$config" ]; then
  # as the service's user: files stay its own, and a server knows it by that, or by the .pgpass in its home
  if id preread >/dev/null 2>&1; then
    runuser -u preread -- env HOME=/var/lib/preread "$target/bin/preread" --config "$config" db upgrade \
      --backup "/var/lib/preread/before-$version.backup"
  else
    "$target/bin/preread" --config "$config" db upgrade
  fi
fi
ln -sfn "$version" "$prefix/current.new"
mv -T "$prefix/current.new" "$prefix/current"
trap - EXIT
echo "Preread $version is in $prefix/current"
if [ -e "$config" ]; then
  echo "next: $prefix/current/bin/preread setup && systemctl restart preread-worker preread-web"
else
  echo "next: $prefix/current/bin/preread setup"
fi
