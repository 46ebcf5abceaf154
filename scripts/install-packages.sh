#!/bin/sh
# install-packages.sh KIND...: install the Debian packages of these kinds from packages.txt that are not installed yet.
set -eu
here=$(dirname "$0")
missing=
for kind in "$@"; do
    for package in $(sed -n "s/^$kind //p" "$here/packages.txt"); do
        case $package in
            # Another kubectl or busybox serves as well, and Debian's would collide with its package.
            kubernetes-client) command -v kubectl >/dev/null && continue ;;
            busybox-static) [ -x /bin/busybox ] && continue ;;
        esac
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || missing="$missing $package"
    done
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "these Debian packages are missing; run with sudo, or: apt install$missing" >&2
    exit 1
fi
echo "installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # one word per package
if ! { apt-get -q update && apt-get -q -y install --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "apt-get failed; mend the cause above and try again" >&2
    exit 1
fi
