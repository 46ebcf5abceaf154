#!/bin/sh
# stop.sh: stop the server that run.sh started, and its pods; the data stays.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "make stop: needs root; run: sudo make stop" >&2; exit 1; }
exec /usr/bin/python3 -m k3sd killall
