#!/usr/bin/env bash
# Makes the .deb and the .rpm from the static binary, and installs and removes each in a root of its own.
# Usage: LAMINA_BINARY=FILE CARGO_TOOLS=DIR tests/package.sh   (DIR/bin has cargo-deb and cargo-generate-rpm)
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
export PATH=$CARGO_TOOLS/bin:$PATH
target=x86_64-unknown-linux-musl
# Both look for the binary where cargo leaves it.
CARGO_TARGET_DIR=$(dirname "$(dirname "$(dirname "$(readlink -f "$LAMINA_BINARY")")")")
export CARGO_TARGET_DIR
version=$("$LAMINA_BINARY" --version | cut -d' ' -f2)
checks=0
ok() { checks=$((checks + 1)); echo "ok: $1"; }
not() { echo "not ok: $1" >&2; exit 1; }
same() { cmp -s "$1" "$2" && ok "$3" || not "$3"; }

cargo deb --quiet --no-build --no-strip --package lamina-agent --target "$target" --output "$T/lamina.deb"
cargo generate-rpm --package agent --target "$target" --output "$T/lamina.rpm"

# A root as an administrator has it: settings and state of their own.
root() {
  mkdir -p "$1"/etc/lamina/manifests "$1"/var/lib/lamina
  echo 'gc-grace: 1h' >"$1/etc/lamina/config.yaml"
  echo kept >"$1/var/lib/lamina/state"
}
installed() { # WHAT ROOT
  same "$LAMINA_BINARY" "$2/usr/bin/lamina" "$1: the binary is the one that was built"
  same manifests/systemd/lamina.service "$2/usr/lib/systemd/system/lamina.service" "$1: the unit is there"
  [ "$("$2/usr/bin/lamina" --version)" = "lamina $version" ] && ok "$1: it runs" || not "$1: it runs"
  [ -s "$2/usr/share/doc/lamina/examples/two-tier.yaml" ] && ok "$1: examples are there" || not "$1: examples are there"
  "$2$(sed -n 's/^ExecStart=\([^ ]*\) .*/\1/p' manifests/systemd/lamina.service)" agent --help >/dev/null && ok "$1: the unit starts it"
}
removed() { # WHAT ROOT
  local left
  left=$(find "$2" -path "$2/var" -prune -o -path "$2/etc" -prune -o ! -type d -name '*lamina*' -print)
  [ -z "$left" ] && ok "$1: no file of it is left" || not "$1: left: $left"
  [ "$(cat "$2/etc/lamina/config.yaml" "$2/var/lib/lamina/state")" = $'gc-grace: 1h\nkept' ] && ok "$1: settings and state stay" || not "$1: settings and state stay"
}

deb=$T/deb
root "$deb"
mkdir -p "$deb"/var/lib/dpkg/{updates,info,triggers}
touch "$deb"/var/lib/dpkg/{status,available}
[ "$(dpkg-deb --field "$T/lamina.deb" Package)" = lamina ] && ok "deb: it is called lamina" || not "deb: it is called lamina"
[ -z "$(dpkg-deb --field "$T/lamina.deb" Depends)" ] && ok "deb: it needs nothing" || not "deb: it needs $(dpkg-deb --field "$T/lamina.deb" Depends)"
dpkg --root="$deb" --install "$T/lamina.deb" >/dev/null
installed deb "$deb"
dpkg --root="$deb" --install "$T/lamina.deb" >/dev/null && ok "deb: it is installed over itself"
dpkg --root="$deb" --purge lamina >/dev/null 2>&1
removed deb "$deb"

rpm=$T/rpm
root "$rpm"
rpm --root "$rpm" --initdb
[ "$(rpm -qp --qf '%{NAME} %{VERSION}' "$T/lamina.rpm" 2>/dev/null)" = "lamina $version" ] && ok "rpm: it is lamina $version" || not "rpm: it is lamina $version"
needs=$(rpm -qp --requires "$T/lamina.rpm" 2>/dev/null | grep -v '^rpmlib(' | sort -u)
[ "$needs" = /bin/sh ] && ok "rpm: it needs a shell alone, as every package does that this tool makes" || not "rpm: it needs $needs"
# The root has none.
rpm --root "$rpm" --install --nosignature --nodeps "$T/lamina.rpm" 2>/dev/null
installed rpm "$rpm"
rpm --root "$rpm" --erase lamina 2>/dev/null
removed rpm "$rpm"
echo "packages: $(stat -c '%s bytes' "$T/lamina.deb") as .deb, $(stat -c '%s bytes' "$T/lamina.rpm") as .rpm"
echo "test result: ok. $checks passed; 0 failed"
