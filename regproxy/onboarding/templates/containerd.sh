#!/bin/sh
# containerd (CRI, nerdctl) asks regproxy at http://@PROXY@ first, for every registry, by hosts.toml. When the proxy does
# not answer, containerd asks the registry itself. No CA is needed; --ca installs it all the same.
#@ include common.sh
#@ include ca.sh

CONFIG=/etc/containerd/config.toml
HOSTS=/etc/containerd/certs.d

# The table of config.toml in which CRI looks for the directory of hosts.toml files, by the file's version.
registry_table() {
    case "$(sed -n 's/^[[:space:]]*version[[:space:]]*=[[:space:]]*\([0-9]*\).*/\1/p' "$1" | head -n 1)" in
        2) echo '[plugins."io.containerd.grpc.v1.cri".registry]' ;;
        '' | 1) echo '[plugins.cri.registry]' ;;
        *) echo '[plugins."io.containerd.cri.v1.images".registry]' ;;
    esac
}

# config_path TABLE FILE: "is DIRECTORY", "table" where the table lacks it, "none" where there is no such table.
config_path() {
    awk -v table="$1" '
        { line = $0; gsub(/[ \t\r]/, "", line); gsub(/\047/, "\"", line); sub(/#.*/, "", line) }
        line ~ /^\[/ { inside = (line == table); seen = seen || inside; next }
        inside && line ~ /^config_path=/ {
            sub(/^config_path="/, "", line); sub(/"$/, "", line); print "is " line; found = 1; exit
        }
        END { if (!found) print (seen ? "table" : "none") }
    ' "$2"
}

# with_config_path TABLE FILE: the file with config_path in the table.
with_config_path() {
    awk -v table="$1" -v entry="config_path = \"$HOSTS\"" '
        { line = $0; gsub(/[ \t\r]/, "", line); gsub(/\047/, "\"", line); sub(/#.*/, "", line) }
        line ~ /^\[/ { inside = (line == table) }
        inside && line ~ /^config_path=/ { next }
        { print }
        inside && line ~ /^\[/ { print "  " entry; done = 1 }
        END { if (!done) printf "\n%s\n  %s\n", table, entry }
    ' "$2"
}

configure() {
    if [ ! -s "$ROOT$CONFIG" ]; then
        # Version 2 is read by containerd 1 and 2.
        printf 'version = 2\n\n%s\n  config_path = "%s"\n' '[plugins."io.containerd.grpc.v1.cri".registry]' "$HOSTS" |
            put "$CONFIG"
        return 0
    fi
    table=$(registry_table "$ROOT$CONFIG")
    if tr -d " \t'\"" <"$ROOT$CONFIG" | grep -q '^\[plugins\..*\.registry\.mirrors'; then
        die "$CONFIG has registry.mirrors, which exclude hosts.toml files; move them there first"
    fi
    case "$(config_path "$table" "$ROOT$CONFIG")" in
        "is /"*)
            HOSTS=$(config_path "$table" "$ROOT$CONFIG" | sed 's/^is //; s/:.*//')
            return 0
            ;;
    esac
    with_config_path "$table" "$ROOT$CONFIG" >"$STATE/config.toml"
    if command -v containerd >/dev/null; then
        containerd --config "$STATE/config.toml" config dump >/dev/null 2>"$STATE/containerd.log" ||
            die "containerd would not read $CONFIG with config_path in $table; add it by hand
$(cat "$STATE/containerd.log")"
    fi
    put "$CONFIG" <"$STATE/config.toml"
}

configure
configured=$CHANGED
put "$HOSTS/_default/hosts.toml" <<'EOF'
#@ include hosts.toml
EOF
for other in "$ROOT$HOSTS"/*/hosts.toml; do
    case "$other" in
        */_default/hosts.toml) ;;
        *) say "${other#"$ROOT"} is left as it is: that registry is not asked for at the proxy" ;;
    esac
done
if wants_ca; then
    install_ca
fi
# hosts.toml files are read at each pull, config.toml when containerd starts.
if [ "$configured" = yes ]; then
    restart containerd
fi
#@ include end.sh
