#!/bin/sh
# build-deb.sh: build the Debian package in a copy of the tree, so that the checkout stays clean; the result is in dist/.
set -eu
cd "$(dirname "$0")/.."
out=${1:-$(pwd)/dist}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/k3sd"
tar -c --exclude=./.git --exclude=./build --exclude=./dist --exclude=__pycache__ --exclude='./.*_cache' --exclude=./.hypothesis . |
    tar -x -C "$work/k3sd"
cd "$work/k3sd"
dpkg-buildpackage -us -uc -b >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; exit 1; }
cp "$work"/*.deb "$work"/*.changes "$work"/*.buildinfo "$out"/
ls "$out"/*.deb
