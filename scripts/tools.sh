#!/bin/sh
# tools.sh: the linters from PyPI, in an environment outside of the tree. Prints its bin directory.
set -eu
venv=${K3SD_TOOLS:-/var/cache/k3sd/tools}
if [ ! -x "$venv/bin/ruff" ] || [ ! -x "$venv/bin/mypy" ]; then
    /usr/bin/python3 -m venv "$venv" >&2
    "$venv/bin/pip" install -q --disable-pip-version-check 'ruff==0.17.*' 'mypy==2.*' >&2
fi
echo "$venv/bin"
