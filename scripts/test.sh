#!/bin/sh
# test.sh [PYTEST ARGUMENTS]: install what the tests need and run all of them.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "make test: needs root for containers and namespaces; run: sudo make test" >&2; exit 1; }
sh scripts/install-packages.sh run database test
if tools=$(sh scripts/tools.sh); then
    PATH=$PATH:$tools
    export PATH
else
    echo "going on without them: the linters' tests are skipped" >&2
fi
exec /usr/bin/python3 -m pytest -q "$@"
