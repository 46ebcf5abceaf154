#!/bin/sh
# stop.sh: stop the server that run.sh started, and its pods; the data stays.
set -eu
cd "$(dirname "$0")/.."
pidfile=/run/k3s/k3sd.pid
[ "$(id -u)" -eq 0 ] || { echo "make stop: needs root; run: sudo make stop" >&2; exit 1; }
if [ -d /run/systemd/system ]; then
    systemctl stop k3sd-server.socket k3sd-server.service 2>/dev/null || true
elif [ -s "$pidfile" ] && pid=$(cat "$pidfile") && kill -TERM "$pid" 2>/dev/null; then
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
fi
exec /usr/bin/python3 -m k3sd killall
