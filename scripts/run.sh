#!/bin/sh
# run.sh: install what is needed, start the server in the background, deploy the sample application and show it.
set -eu
cd "$(dirname "$0")/.."
python=/usr/bin/python3
data=${K3S_DATA_DIR:-/var/lib/rancher/k3s}
log=/var/log/k3sd.log
pidfile=/run/k3s/k3sd.pid
unit=k3sd-server.service

k3sd() { "$python" -m k3sd "$@"; }
kubectl() { k3sd kubectl "$@"; }
say() { printf '\n== %s\n' "$*"; }
under_systemd() { [ -d /run/systemd/system ]; }
running() {
    if under_systemd; then
        case $(systemctl is-active "$unit" || true) in active | activating | reloading) return 0 ;; *) return 1 ;; esac
    fi
    [ -s "$pidfile" ] && kill -0 "$(cat "$pidfile")" 2>/dev/null
}
show_log() {
    if under_systemd; then journalctl -u "$unit" -n 20 --no-pager; else tail -n 20 "$log"; fi >&2
}
fail() {
    show_log || true
    echo "make run: $*" >&2
    exit 1
}

[ "$(id -u)" -eq 0 ] || { echo "make run: needs root; run: sudo make run" >&2; exit 1; }

say "packages"
sh scripts/install-packages.sh run demo
echo "all there"

say "the sample application's image"
"$python" docs/examples/web/build_image.py /bin/busybox "$data/agent/images/web.tar"

if running; then
    say "the server is already running"
else
    say "starting the server"
    # shellcheck disable=SC2086 # flags are words
    k3sd config check ${K3SD_FLAGS:-}
    if under_systemd; then
        sh scripts/transient-unit.sh
        systemctl start --no-block "$unit"
        echo "unit $unit; its log: journalctl -u $unit"
        server=
    else
        # The parent opens nothing but its own sockets, so a session of its own is all it takes.
        # shellcheck disable=SC2086 # flags are words
        setsid "$python" -m k3sd server ${K3SD_FLAGS:-} >>"$log" 2>&1 </dev/null &
        server=$!
        echo "pid $server; its log: $log"
    fi
fi

say "waiting for the node"
began=$(date +%s)
shown=
while :; do
    state=$(kubectl get nodes --no-headers 2>/dev/null | awk 'NR == 1 { print $1 " is " $2 }') || state=
    case $state in
        "") state="the API does not answer yet" ;;
        *" is Ready"*) break ;;
    esac
    if [ "$state" != "$shown" ]; then
        printf '%3d s  %s\n' $(($(date +%s) - began)) "$state"
        shown=$state
    fi
    if under_systemd; then
        [ "$(systemctl is-failed "$unit" || true)" != failed ] || fail "the server failed"
    elif [ -n "${server:-}" ] && ! kill -0 "$server" 2>/dev/null; then
        fail "the server ended"
    fi
    [ $(($(date +%s) - began)) -lt 180 ] || fail "the node is not Ready after 180 s"
    sleep 0.5
done
printf '%3d s  %s\n' $(($(date +%s) - began)) "$state"
kubectl get nodes -o wide

say "the sample application"
# Archives are imported when the node starts; a node that was running already gets this one now.
if ! k3sd ctr images list -q | grep -qx docker.io/library/web:1; then
    k3sd ctr images import "$data/agent/images/web.tar"
fi
kubectl apply -f docs/examples/web/web.yaml
kubectl rollout status deployment/web --timeout=120s || fail "the pods are not ready"
kubectl get deployments,pods,services -o wide

say "the page, through the service"
address=$(kubectl get service web -o 'jsonpath={.spec.clusterIP}')
for _ in 1 2 3; do
    "$python" -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode().strip())' "http://$address/" ||
        fail "the service does not answer"
done

cat <<END

Kubernetes runs on this machine. Go on with:
    sudo $python -m k3sd kubectl get pods --all-namespaces
    sudo $python -m k3sd kubectl logs deployment/web
    sudo $python -m k3sd kubectl exec -it deployment/web -- sh
Stop it, with all its pods (the data stays):
    sudo make stop
END
