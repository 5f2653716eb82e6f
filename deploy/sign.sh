#!/bin/sh
# Writes SHA256SUMS of everything in a folder. With a secret key of minisign, signs it, and lays the public key beside it
# (release.pub, from KEY without .key and with .pub), after that key was seen to fit.
# usage: sign.sh FOLDER [KEY COMMENT]      COMMENT is signed as well, and shown by whoever verifies
set -eu
folder=$1
sums() { (cd "$folder" && find . -type f ! -path './SHA256SUMS*' | LC_ALL=C sort | xargs -d '\n' sha256sum >SHA256SUMS); }
if [ $# -eq 1 ]; then
  sums
  exit
fi
key=$2
comment=$3
public=${key%.key}.pub
cp "$public" "$folder/release.pub"
sums
minisign -S -s "$key" -m "$folder/SHA256SUMS" -t "$comment" -c "of SHA256SUMS; verify with release.pub as published" >/dev/null
minisign -V -q -p "$public" -m "$folder/SHA256SUMS"
