#!/bin/sh
# Builds and signs a release: the version in pyproject.toml, from the commit that RELEASES names for it and from nothing
# else, into release/VERSION-PLATFORM: the wheel, the offline tar, the SBOM, SHA256SUMS with its signature, the public key.
# Another processor or Python is another run on another machine, with the same key.
# usage: release.sh PYTHON KEY      (make release KEY=preread.key; preread.pub lies beside it)
set -eu
python=$(realpath -s "$1")
key=$(realpath "$2")
cd "$(dirname "$0")/.."
fail() { printf '%s\n' "$@" >&2; exit 1; }

command -v minisign >/dev/null || fail "minisign is not installed (Debian: apt-get install minisign)"
for each in "$key" "${key%.key}.pub"; do
  [ -f "$each" ] || fail "$each is missing: minisign -G -s NAME.key -p NAME.pub makes a pair"
done
changed=$(git status --porcelain)
[ -z "$changed" ] || fail "the tree is not clean; commit, or put aside:" "$changed"
version=$("$python" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
commit=$(sed -n "s/^$version //p" RELEASES)
[ -n "$commit" ] || fail "$version has no line in RELEASES: commit the version, then add \`$version COMMIT\` with that commit's name"
"$python" -m deploy.tags --check >/dev/null || fail "RELEASES, the tags and the commits do not agree"
git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null || fail "the tag v$version is missing: make tags"
git cat-file -e "$commit:deploy/release.sh" 2>/dev/null || fail "$version is from before releases were signed"
platform=$("$python" -c 'import sys, sysconfig
print(f"cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}")')
folder=release/$version-$platform
[ ! -e "$folder" ] || fail "$folder is there already; a release is made once: move it away first"

place=$(mktemp -d "${TMPDIR:-/tmp}/preread-release.XXXXXX")
trap 'rm -rf "$place"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$place/tree" "$place/out"
git -c tar.umask=0022 archive "$commit" | tar -x -C "$place/tree"
(
  cd "$place/tree"
  "$python" -m hatchling build -t wheel -d "$place/out"
  "$python" -m deploy.sbom "$place/out/preread-$version-$platform.cdx.json"
  sh deploy/wheelhouse.sh "$python" "$place/out/preread-$version-py3-none-any.whl" "$place/out" "$key" "$commit"
  sh deploy/sign.sh "$place/out" "$key" "preread $version $platform release of commit $commit"
)
mkdir -p release
cp -R "$place/out" "$folder.part"
mv -T "$folder.part" "$folder"
echo "$folder holds what is to be published:"
ls "$folder"
