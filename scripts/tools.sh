#!/bin/sh
# tools.sh: the linters from PyPI, in an environment outside of the tree. Prints its bin directory.
set -eu
venv=${K3SD_TOOLS:-/var/cache/k3sd/tools}
if [ ! -x "$venv/bin/ruff" ] || [ ! -x "$venv/bin/mypy" ]; then
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if ! { /usr/bin/python3 -m venv "$venv" &&
        "$venv/bin/pip" install -q --retries 1 --disable-pip-version-check 'ruff==0.17.*' 'mypy==2.*'; } >"$log" 2>&1; then
        # Why no connection came about says more than pip's last line, that there is no such version.
        cause=$(sed -n "s/.*after connection broken by '\(.*\)': .*/\1/p" "$log" | tail -n 1 | sed 's/<pip[^>]*>: //')
        echo "ruff and mypy could not be installed from PyPI: ${cause:-$(tail -n 1 "$log")}" >&2
        echo "mend the network or pip's settings (PIP_INDEX_URL, PIP_CERT, https_proxy), and try again" >&2
        exit 1
    fi
fi
echo "$venv/bin"
