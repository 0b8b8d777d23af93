#!/bin/sh
# Has this node's containerd ask the proxy at $PROXY first, for as long as this runs: what `regproxy setup containerd`
# prints, run on the node's directories below $REGPROXY_SETUP_ROOT and, at the end, taken back.
set -eu
script=${TMPDIR:-/tmp}/setup.sh
done=${TMPDIR:-/tmp}/done

take_back() {
    trap '' TERM INT
    kill "$pausing" 2>/dev/null || :
    rm -f "$done"
    if [ -s "$script" ]; then
        sh "$script" --undo --no-restart
    fi
    exit 0
}
pausing=
trap take_back TERM INT

pause() { # so that a signal is seen at once
    sleep "$1" &
    pausing=$!
    wait "$pausing"
}

while :; do
    # What it has printed before stays until it prints something else: the proxy may be away for a while.
    if regproxy setup containerd --proxy "$PROXY" >"$script.new" && [ -s "$script.new" ]; then
        mv "$script.new" "$script"
        if sh "$script" --no-restart; then
            : >"$done"
            pause "$INTERVAL"
            continue
        fi
        rm -f "$done"
    fi
    pause 5
done
