#!/usr/bin/env bash
# Installs what Gatehouse needs of the system, through apt where it may, and otherwise says what to install.
# usage: tools/system.sh run|test      CHROMIUM names the browser of the tests, where it is not `chromium`
set -euo pipefail

declare -A packages=([python3-venv]="python3 -m ensurepip --version")
if [ "${1:-run}" = test ]; then
  packages+=(
    [gcc]="cc --version"
    [libc6-dev]="test -e /usr/include/stdio.h"
    [redis-server]="redis-server --version"
    [nginx-light]="nginx -v"
    [chromium]="${CHROMIUM:-chromium} --version"
    [postgresql]="ls /usr/lib/postgresql/*/bin/initdb"
    [prometheus]="promtool --version"
    [prometheus-alertmanager]="amtool --version"
    [prometheus-blackbox-exporter]="prometheus-blackbox-exporter --version"
    [fonts-noto-cjk]="test -e /usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc"
    [npm]="npm --version"
    [systemd]="systemd-analyze --version"
  )
fi

find_missing() {
  missing=()
  for package in "${!packages[@]}"; do
    PATH=$PATH:/usr/sbin ${packages[$package]} >/dev/null 2>&1 || missing+=("$package")
  done
}

find_missing
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if sudo -n true 2>/dev/null; then as_root=(sudo); else may_not=1; fi
fi
if [ -n "${may_not:-}" ] || ! command -v apt-get >/dev/null; then
  echo "Please install: ${missing[*]}" >&2
  echo "(on Debian or Ubuntu: sudo apt-get install --no-install-recommends ${missing[*]})" >&2
  exit 1
fi
echo "installing ${missing[*]}" >&2
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
find_missing
if [ ${#missing[@]} -gt 0 ]; then
  for package in "${missing[@]}"; do
    echo "$package was installed, and \`${packages[$package]}\` fails nevertheless" >&2
  done
  # Ubuntu's package is an empty one, for snap
  [[ " ${missing[*]} " != *" chromium "* ]] || echo "(another Chromium, or Chrome, can be named in CHROMIUM)" >&2
  exit 1
fi
