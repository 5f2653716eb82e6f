#!/bin/sh
# Boots a Debian host without network in a container of systemd's, installs Preread there from a wheelhouse as RUNBOOK.md
# says, and tries what only a real systemd can show. As root, on Debian with debootstrap and systemd-container; fetches
# Debian's packages first. Takes six minutes; leaves nothing behind.
# usage: try_host.sh PYTHON TAR      (make try-host)
set -eu
python=$(realpath -s "$1")
archive=$(realpath "$2")
. /etc/os-release
place=$(mktemp -d /var/tmp/preread-host.XXXXXX)
host=$place/root
booted=
end() {
  if [ -n "$booted" ]; then kill "$booted" 2>/dev/null || true; wait "$booted" 2>/dev/null || true; fi
  rm -rf "$place"
}
trap end EXIT
trap 'exit 1' INT TERM

say() { printf '%s\n' "--- $*"; }
fail() { echo "FAILED: $*" >&2; inside journalctl --no-pager -n 40 -u 'preread-*' >&2 || true; exit 1; }
inside() {
  nsenter --target "$(pgrep -P "$booted")" --all env -i HOME=/root LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin "$@"
}
# within SECONDS COMMAND...: wait until it succeeds inside
within() {
  left=$1
  shift
  until inside "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    test "$left" -gt 0 || fail "not in time: $*"
    sleep 1
  done
}
boot() {
  SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --boot --directory="$host" --private-network --register=no \
    --keep-unit --machine=preread-host --console=pipe </dev/null >"$place/console" 2>&1 &
  booted=$!
  within 60 systemctl list-units
}
main_process() { inside systemctl show --property MainPID --value "preread-$1"; }

say "a host: $PRETTY_NAME"
debootstrap --variant=minbase --include=systemd-sysv,dbus,python3-venv,procps "$VERSION_CODENAME" "$host" >"$place/debootstrap" 2>&1 ||
  { tail -5 "$place/debootstrap" >&2; exit 1; }
mkdir "$host/srv/films" "$place/films"
tar -C "$host/srv" -xf "$archive"
"$python" -c 'import sys; from pathlib import Path; from preread_training.data import phantoms
phantoms.write_examples(Path(sys.argv[1]))' "$place/films"
boot

say "install, set up, start"
inside sh -c 'sh /srv/preread-*/install.sh --unsigned &&
  /opt/preread/current/bin/preread setup --share /srv/films --population undeclared'
inside systemctl enable --now preread-worker preread-web
inside preread check >/dev/null
for unit in worker web alarm; do inside systemd-analyze security --no-pager "preread-$unit" | tail -1; done

say "films are answered, with their previews"
drawn=$(find "$place/films" -type f | wc -l)
cp "$place"/films/* "$host/srv/films/"
within 60 sh -c "test \$(preread results --json | wc -l) -eq $drawn"
inside sh -c 'test -n "$(find /var/lib/preread/preread.db-previews -type f)"' || fail "no previews"

say "killed, the worker and the page come back; a film that came meanwhile is answered"
for unit in worker web; do inside kill -9 "$(main_process "$unit")"; done
cp "$place/films/phantom-rle.dcm" "$host/srv/films/killed.dcm"
within 60 systemctl is-active preread-worker preread-web
within 60 sh -c 'preread results --json | grep -q killed.dcm'

say "a worker that stands still is replaced by the watchdog (three minutes)"
still=$(main_process worker)
inside kill -STOP "$still"
within 330 sh -c "test \$(systemctl show --property MainPID --value preread-worker) -ne $still"
within 60 systemctl is-active preread-worker

say "after a power cut it starts by itself, and reads what came meanwhile"
kill -9 "$(pgrep -P "$booted")"
wait "$booted" 2>/dev/null || true
cp "$place/films/phantom-rle.dcm" "$host/srv/films/dark.dcm"
boot
within 60 systemctl is-active preread-worker preread-web
within 60 sh -c 'preread results --json | grep -q dark.dcm'

say "backup, and restore into an empty place"
inside preread db backup /var/lib/preread/try.backup
inside systemctl stop preread-worker preread-web
rm -f "$host"/var/lib/preread/preread.db "$host"/var/lib/preread/preread.db-wal "$host"/var/lib/preread/preread.db-shm
inside preread db restore /var/lib/preread/try.backup
inside systemctl start preread-worker preread-web
inside preread reconcile --wait 60

say "no patient's name is in the journal"
if inside journalctl --no-pager | grep -i -e 'Phantom^' -e 'PHANTOM-0'; then fail "there is"; fi
echo "a real systemd ran it: $((drawn + 2)) films answered"
