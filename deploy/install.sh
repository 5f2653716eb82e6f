#!/bin/sh
# Installs Preread from an unpacked tar, without any network, beside earlier versions:
#   PREFIX/VERSION       an environment of its own for each version, and PREFIX/current, the one that is in use
#   PREFIX/release.pub   the key that signed the first one; each later one must be signed with it
#   PREFIX/install.sh    this script: `sh PREFIX/install.sh FOLDER` installs the next version, since a script that came with
#                        a folder cannot vouch for that folder
# The new one is checked (and the database upgraded, where there is one) before it comes into use; else nothing changes.
# usage: install.sh [options] [FOLDER]
#   FOLDER          the unpacked tar (default: where this script lies)
#   --prefix DIR    /opt/preread       --python PYTHON   python3       --config FILE   /etc/preread/preread.toml
#   --fleet         with what `preread backfill` and `preread fleet` need; kept by later versions
#   --key FILE      the public key to trust at the first installation (default: the one in the folder, shown)
#   --new-key FILE  from now on trust this key; FILE.minisig beside it is its signature with the key before
#   --unsigned      install what nobody signed (a tar of `make wheelhouse`)
#   --older         install a version that is older than the one in use
set -eu
umask 022
usage() {
  echo "usage: install.sh [--prefix DIR] [--python PYTHON] [--config FILE] [--fleet] [--key FILE | --new-key FILE]" \
    "[--unsigned] [--older] [FOLDER]" >&2
  exit 2
}
fail() {
  code=$1
  shift
  printf '%s\n' "$@" >&2
  exit "$code"
}
absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$PWD" "$1" ;; esac; }
# the second line of a public key's file: 56 characters
key_in() {
  sed -n 2p "$1" 2>/dev/null | grep -Ex 'RW[A-Za-z0-9+/]{54}' || fail 2 "$1 is no public key of minisign"
}

folder=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
prefix=/opt/preread
python=python3
config=/etc/preread/preread.toml
key='' new_key='' unsigned='' older='' fleet='' checked=''
while [ $# -gt 0 ]; do
  case $1 in
    --unsigned) unsigned=1 ;;
    --older) older=1 ;;
    --fleet) fleet=1 ;;
    --checked) checked=1 ;; # by the first half of this script
    --prefix | --python | --config | --key | --new-key)
      [ $# -gt 1 ] || usage
      case $1 in
        --prefix) prefix=$(absolute "$2") ;;
        --python) python=$2 ;;
        --config) config=$(absolute "$2") ;;
        --key) key=$(absolute "$2") ;;
        --new-key) new_key=$(absolute "$2") ;;
      esac
      shift
      ;;
    -*) usage ;;
    *) [ $# -eq 1 ] || usage; folder=$(absolute "$1") ;;
  esac
  shift
done
case $python in */*) python=$(absolute "$python") ;; esac
# nothing is read from where the caller happens to stand
cd /

# ------------------------------------------------------------------ who made the folder, and is it whole
if [ -z "$checked" ]; then
  [ -e "$folder/SHA256SUMS" ] || fail 2 "$folder is no unpacked tar of Preread: name the folder that holds SHA256SUMS"
  pinned=$prefix/release.pub
  mkdir -p "$prefix"
  # checked and installed from a copy that nobody else can change meanwhile
  place=$(mktemp -d "$prefix/.incoming.XXXXXX")
  trap 'rm -rf "$place"; rmdir "$prefix" 2>/dev/null || true' EXIT
  trap 'exit 1' HUP INT TERM
  cp -R -P "$folder/." "$place/tree"
  tree=$place/tree
  [ -z "$(find "$tree" ! -type f ! -type d)" ] || fail 1 "the folder holds links or devices, and no release does: nothing was installed"

  trusted=''
  if [ -n "$unsigned" ]; then
    echo "UNSIGNED: nobody checks who made $folder" >&2
  else
    command -v minisign >/dev/null || fail 2 \
      "minisign is not installed, and without it nobody can tell who made this folder." \
      "Install Debian's package minisign (without network: its .deb and that of libsodium23), or go without: --unsigned"
    [ -e "$tree/SHA256SUMS.minisig" ] || fail 1 \
      "the folder is not signed (no SHA256SUMS.minisig), and each release is: get the tar again." \
      "What \`make wheelhouse\` packed is for development, and installed with --unsigned"
    if [ -e "$pinned" ]; then
      trusted=$(key_in "$pinned")
      [ -z "$key" ] || [ "$(key_in "$key")" = "$trusted" ] || fail 1 "$key is another key than $pinned, which is trusted here"
      if [ -n "$new_key" ]; then
        cp "$new_key" "$place/new.pub" && cp "$new_key.minisig" "$place/new.pub.minisig" ||
          fail 2 "a new key comes with its signature by the key before: FILE and FILE.minisig"
        minisign -V -q -P "$trusted" -m "$place/new.pub" ||
          fail 1 "$new_key is not signed with the key that is trusted here ($pinned): nothing was changed"
        trusted=$(key_in "$place/new.pub")
        echo "the key changes to $trusted, which the key before has signed"
      fi
    else
      [ -z "$new_key" ] || fail 2 "no key is trusted here yet: --key FILE names the first"
      trusted=$(key_in "${key:-$tree/release.pub}")
      echo "the first installation below $prefix: from now on it trusts the key"
      echo "    $trusted"
      [ -n "$key" ] || echo "which came with the folder. Compare it with the one that is published: if the folder is forged, so is this key."
    fi
    comment=$(minisign -V -Q -P "$trusted" -m "$tree/SHA256SUMS") || fail 1 \
      "the folder is not signed with the key that is trusted here, $trusted: nothing was installed." \
      "Get the tar again from where releases are published; if the key was changed there, see --new-key in RUNBOOK.md"
    case $comment in
      "preread $(cat "$tree/VERSION") $(cat "$tree/PLATFORM") commit "*) echo "signed: $comment" ;;
      *) fail 1 "the signature is for something else ($comment): nothing was installed" ;;
    esac
  fi
  (cd "$tree" && sha256sum --quiet --strict --check SHA256SUMS) || fail 1 "the folder is not whole: copy the tar again"
  (cd "$tree" && find . -type f ! -path './SHA256SUMS*' | LC_ALL=C sort) >"$place/there"
  cut -c 67- "$tree/SHA256SUMS" | LC_ALL=C sort | cmp -s - "$place/there" ||
    fail 1 "the folder holds files that are not in its SHA256SUMS: unpack the tar into a new folder"

  sh "$tree/install.sh" --checked --prefix "$prefix" --python "$python" --config "$config" ${older:+--older} ${fleet:+--fleet}
  cp "$tree/install.sh" "$place/install.sh"
  mv "$place/install.sh" "$prefix/install.sh"
  if [ -n "$trusted" ]; then
    printf 'untrusted comment: Preread is installed here only if signed with this key\n%s\n' "$trusted" >"$place/release.pub"
    mv "$place/release.pub" "$pinned"
  fi
  exit 0
fi

# ------------------------------------------------------------------ install it
version=$(cat "$folder/VERSION")
wanted=$(cat "$folder/PLATFORM")
case $version in
  [0-9]*) case $version in *[!0-9a-z.+]*) fail 1 "$version is no version" ;; esac ;;
  *) fail 1 "$version is no version" ;;
esac
found=$("$python" -I -c 'import sys, sysconfig
print(f"cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}")')
if [ "$found" != "$wanted" ]; then
  fail 2 "this is for $wanted, and $python is $found: name another with --python, or get the tar for it"
fi
target=$prefix/$version
[ ! -e "$target" ] || fail 2 "$target is there already: to install it again, remove it first"
in_use=$(readlink "$prefix/current" || true)
if [ -n "$in_use" ] && [ -z "$older" ] && [ "$(printf '%s\n' "$in_use" "$version" | sort -V | tail -n 1)" != "$version" ]; then
  fail 2 "$version is older than $in_use, which is in use, and lacks what was mended since: --older installs it all the same"
fi
wheels=requirements.txt
if [ -n "$fleet" ] || { [ -n "$in_use" ] && "$prefix/current/bin/python" -I -c 'import procrastinate' 2>/dev/null; }; then
  wheels=requirements-fleet.txt
fi
undo() { rm -rf "$target"; echo "nothing was changed: the version that was in use still is" >&2; }
trap undo EXIT
trap 'exit 1' HUP INT TERM
# -I: no module is taken from the folder or the environment of whoever runs this
"$python" -I -m venv "$target"
(cd "$folder" && "$target/bin/python" -I -m pip --isolated --disable-pip-version-check install -q --no-index \
  --find-links wheels --require-hashes --only-binary :all: -r "$wheels")
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
