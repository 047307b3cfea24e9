#!/bin/sh
# Programs of the system that some tests need: Chromium for the browser, Node.js and npm for EventSource clients,
# Prometheus and Alertmanager for the rules, libfaketime for clocks that jump, docker-compose for the stack (its file is
# read; no engine is needed), NATS for the bus between hosts, PgBouncer for what runs through it; and those named as
# arguments, whose packages have their names.
# Installed where that is possible without asking (Debian or Ubuntu, as root or with passwordless sudo); otherwise
# the tests that need them are skipped and named. No service of a package is started: policy-rc.d forbids it.
set -eu

missing=""
command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 ||
    command -v google-chrome >/dev/null 2>&1 || missing="$missing chromium"
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
command -v npm >/dev/null 2>&1 || missing="$missing npm"
command -v promtool >/dev/null 2>&1 || missing="$missing prometheus"
command -v amtool >/dev/null 2>&1 || missing="$missing prometheus-alertmanager"
for program in "$@"; do command -v "$program" >/dev/null 2>&1 || missing="$missing $program"; done
set -- /usr/lib/*/faketime/libfaketime.so.1
[ -e "$1" ] || missing="$missing libfaketime"
command -v docker-compose >/dev/null 2>&1 || missing="$missing docker-compose"
command -v nats-server >/dev/null 2>&1 || [ -x /usr/sbin/nats-server ] || missing="$missing nats-server"
command -v pgbouncer >/dev/null 2>&1 || [ -x /usr/sbin/pgbouncer ] || missing="$missing pgbouncer"
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        echo "not installed, and not to be had without asking:$missing" >&2
        exit 0
    fi
fi
command -v apt-get >/dev/null 2>&1 || { echo "not installed, and no apt-get here:$missing" >&2; exit 0; }

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi

echo "installing$missing ..." >&2
# shellcheck disable=SC2086  # the words are package names
{ $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq \
    --no-install-recommends $missing; } >/dev/null || echo "could not be installed:$missing" >&2
