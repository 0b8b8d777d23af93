#!/bin/sh
# Takes back what regproxy's set-up for @CLIENT@ has done on this machine.
set -eu
ROOT=${REGPROXY_SETUP_ROOT:-}
STATES="$ROOT/var/lib/regproxy-setup"
STATE="$STATES/@CLIENT@"
changed=no left=no

if [ ! -f "$STATE/journal" ]; then
    echo "regproxy: nothing of @CLIENT@ to take back"
    exit 0
fi

same() { [ -f "$1" ] && [ -f "$2" ] && [ "$(cat "$1")" = "$(cat "$2")" ]; }

used_elsewhere() {
    for journal in "$STATES"/*/journal; do
        if [ "$journal" != "$STATE/journal" ] && grep -qxF "$1" "$journal"; then
            return 0
        fi
    done
    return 1
}

take_back() {
    if [ ! -e "$ROOT$1" ] || used_elsewhere "file $1"; then
        return 0
    elif ! same "$ROOT$1" "$STATE/wrote$1"; then
        echo "regproxy: $1 was changed since; take regproxy's part out by hand, then run this again" >&2
        [ ! -f "$STATE/before$1" ] || echo "regproxy: before, it was $STATE/before$1" >&2
        left=yes
    elif [ -f "$STATE/before$1" ]; then
        cat "$STATE/before$1" >"$ROOT$1"
        changed=yes
        echo "regproxy: $1 is what it was"
    else
        rm -f "$ROOT$1"
        changed=yes
        echo "regproxy: removed $1"
    fi
}

trust() {
    case "$1" in
        update-ca-certificates) update-ca-certificates --fresh ;;
        update-ca-trust) update-ca-trust extract ;;
    esac
}

#@ include restart-service.sh
restart() {
    if [ "$changed" = yes ] && [ "${RESTART:-yes}" = yes ]; then
        restart_service "$1"
    fi
}

# Files and directories in the opposite order of their making; only then what has to read them.
backwards=$(sed '1!G;h;$!d' "$STATE/journal")
while read -r kind what; do
    case "$kind" in
        file) take_back "$what" ;;
        dir) used_elsewhere "dir $what" || rmdir "$ROOT$what" 2>/dev/null || true ;;
    esac
done <<JOURNAL
$backwards
JOURNAL
while read -r kind what; do
    case "$kind" in
        trust) [ "$changed" = no ] || trust "$what" ;;
        restart) restart "$what" ;;
    esac
done <"$STATE/journal"

[ "$left" = no ] || exit 1
rm -rf "$STATE"
rmdir "$STATES" 2>/dev/null || true
