#!/bin/sh
# Packs everything that a machine without network needs into one tar: the product's wheel, the locked wheels of what it
# needs, the script that installs them, and the pages for those who keep it. For the interpreter and processor of the
# machine that it runs on. A release is signed; without KEY it can be installed with --unsigned only.
# usage: wheelhouse.sh PYTHON WHEEL FOLDER [KEY COMMIT]
set -eu
python=$1
wheel=$2
folder=$3
key=${4:-}
commit=${5:-}
here=$(dirname "$0")
platform=$("$python" -c 'import sys, sysconfig
print(f"cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}")')
version=$(basename "$wheel" | cut -d- -f2)
name=preread-$version-$platform
place=$(mktemp -d "${TMPDIR:-/tmp}/preread-wheelhouse.XXXXXX")
trap 'rm -rf "$place"' EXIT
tree=$place/$name
mkdir -p "$tree/wheels" "$folder"

# what the extra `fleet` needs lies there as well; install.sh --fleet takes it
"$python" -m pip --disable-pip-version-check download -q --require-hashes --only-binary :all: \
  -r "$here/../requirements/fleet.txt" -d "$tree/wheels"
cp "$wheel" "$tree/wheels/"
cp "$here/../requirements/runtime.txt" "$tree/requirements.txt"
cp "$here/../requirements/fleet.txt" "$tree/requirements-fleet.txt"
for list in requirements.txt requirements-fleet.txt; do
  printf 'preread==%s \\\n    --hash=sha256:%s\n' "$version" "$(sha256sum "$wheel" | cut -d' ' -f1)" >>"$tree/$list"
done
# what a person there reads lies as in the source, so that its links lead somewhere
cp "$here/install.sh" "$here/../README.md" "$here/../CHANGELOG.md" "$here/../SECURITY.md" "$here/../LICENSE" "$tree/"
mkdir "$tree/deploy"
cp -R "$here/RUNBOOK.md" "$here/prometheus" "$here/grafana" "$here/fail2ban" "$tree/deploy/"
cp -R "$here/../docs" "$tree/"
# what builds the site, and what that wrote
rm -rf "$tree/docs/_ext" "$tree/docs/_static" "$tree/docs/conf.py" "$tree/docs/reference/api"
printf '%s\n' "$version" >"$tree/VERSION"
printf '%s\n' "$platform" >"$tree/PLATFORM"
sh "$here/sign.sh" "$tree" ${key:+"$key" "preread $version $platform commit $commit"}
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$place" -cf "$place/$name.tar" "$name"
mv "$place/$name.tar" "$folder/$name.tar"
echo "$folder/$name.tar: $(find "$tree/wheels" -name '*.whl' | wc -l) wheels, $(du -m "$folder/$name.tar" | cut -f1) MB"
