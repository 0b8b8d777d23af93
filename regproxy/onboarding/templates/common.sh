#
# Usage: sh SCRIPT [--undo] [--no-restart]@USAGE@
# Running it again changes nothing. --undo takes everything back; so does, without the proxy,
# sh /var/lib/regproxy-setup/@CLIENT@/undo.sh
set -eu
umask 022
CLIENT='@CLIENT@'
PROXY='@PROXY@'
ROOT=${REGPROXY_SETUP_ROOT:-} # another file system than /, such as that of an image that is being made
STATES="$ROOT/var/lib/regproxy-setup"
STATE="$STATES/$CLIENT"
UNDO=no RESTART=yes WITH_CA=no CHANGED=no

say() { echo "regproxy: $*"; }
die() {
    echo "regproxy: $*" >&2
    exit 1
}

undo_script() {
    cat <<'END_OF_UNDO'
#@ include undo.sh
END_OF_UNDO
}

same() { [ -f "$1" ] && [ -f "$2" ] && [ "$(cat "$1")" = "$(cat "$2")" ]; }

# note KIND WHAT: writes down what is about to be done, for undo.sh.
note() {
    grep -qxF "$1 $2" "$STATE/journal" || echo "$1 $2" >>"$STATE/journal"
}

wants_ca() { [ "$WITH_CA" = yes ]; }

noted() { grep -qxF "$1 $2" "$STATES"/*/journal 2>/dev/null; }

make_dir() {
    if [ -d "$ROOT$1" ] && ! noted dir "$1"; then
        return 0
    fi
    make_dir "$(dirname "$1")"
    note dir "$1"
    [ -d "$ROOT$1" ] || mkdir "$ROOT$1"
}

# put FILE: what comes on standard input is the file's new text. What was there is kept for --undo.
put() {
    mkdir -p "$STATE/before$(dirname "$1")" "$STATE/wrote$(dirname "$1")"
    cat >"$STATE/new"
    if same "$STATE/new" "$ROOT$1"; then
        # Another set-up's file is held by both; one that was there already is the machine's own.
        if noted file "$1"; then
            make_dir "$(dirname "$1")"
            note file "$1"
            cat "$STATE/new" >"$STATE/wrote$1"
        fi
        return 0
    fi
    make_dir "$(dirname "$1")"
    if [ -e "$ROOT$1" ] && ! noted file "$1"; then
        cp -p "$ROOT$1" "$STATE/before$1"
        say "$1 is replaced; it was copied to $STATE/before$1"
    fi
    note file "$1"
    cat "$STATE/new" >"$STATE/wrote$1"
    cat "$STATE/new" >"$ROOT$1"
    CHANGED=yes
    say "wrote $1"
}

#@ include restart-service.sh
restart() {
    note restart "$1"
    if [ "$CHANGED" = yes ] && [ "$RESTART" = yes ]; then
        restart_service "$1"
    fi
}

while [ $# -gt 0 ]; do
    case "$1" in
        --undo) UNDO=yes ;;
        --no-restart) RESTART=no ;;
        --ca) WITH_CA=yes ;;
        *) die "unknown argument $1; it takes --undo, --no-restart@USAGE@" ;;
    esac
    shift
done
[ -n "$ROOT" ] || [ "$(id -u)" = 0 ] || die "this has to run as root"
if [ "$UNDO" = yes ]; then
    export RESTART
    undo_script | sh -s
    exit
fi
mkdir -p "$STATE"
[ -f "$STATE/journal" ] || : >"$STATE/journal"
undo_script >"$STATE/undo.sh"
