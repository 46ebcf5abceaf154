#!/bin/sh
# transient-unit.sh: the packaged units, running this checkout, until the next boot.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
mkdir -p /run/systemd/system
cp systemd/k3sd-server.socket /run/systemd/system/
sed "s|^ExecStart=/usr/bin/k3sd server|ExecStart=/usr/bin/python3 -m k3sd server ${K3SD_FLAGS:-}|
/^\[Service\]/a Environment=PYTHONPATH=$root PYTHONDONTWRITEBYTECODE=1" \
    systemd/k3sd-server.service >/run/systemd/system/k3sd-server.service
systemctl daemon-reload
