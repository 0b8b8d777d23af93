#!/bin/sh
# dockerd 23 and newer pulls through regproxy at http://@PROXY@: "proxies" in daemon.json, the CA in the system's store.
# Other keys of daemon.json stay. dockerd is restarted, and with it containers, unless it has live-restore.
#@ include common.sh
#@ include no-proxy.sh
#@ include ca.sh

FILE=/etc/docker/daemon.json

# Nothing of anybody else is in daemon.json.
all_ours() {
    ! grep -q '[^[:space:]]' "$ROOT$FILE" 2>/dev/null ||
        { [ ! -e "$STATE/before$FILE" ] && same "$ROOT$FILE" "$STATE/wrote$FILE"; }
}

# The text of daemon.json with the two keys, by what is here to edit JSON.
merged() {
    if all_ours; then
        printf '{\n  "proxies": {\n    "https-proxy": "http://%s",\n    "no-proxy": "%s"\n  }\n}\n' \
            "$PROXY" "$NO_PROXY_LIST"
    elif command -v jq >/dev/null; then
        jq --arg url "http://$PROXY" --arg spared "$NO_PROXY_LIST" \
            '.proxies["https-proxy"] = $url | .proxies["no-proxy"] = $spared' "$ROOT$FILE"
    elif command -v python3 >/dev/null; then
        python3 -c '
import json, sys
with open(sys.argv[1]) as file:
    settings = json.load(file)
settings.setdefault("proxies", {}).update({"https-proxy": sys.argv[2], "no-proxy": sys.argv[3]})
print(json.dumps(settings, indent=2, ensure_ascii=False))
' "$ROOT$FILE" "http://$PROXY" "$NO_PROXY_LIST"
    else
        die "neither jq nor python3 is here to edit $FILE; add by hand: \"proxies\": {\"https-proxy\": \"http://$PROXY\"}"
    fi
}

merged >"$STATE/daemon.json" || die "$FILE can't be edited: nothing was changed"
install_ca
put "$FILE" <"$STATE/daemon.json"
restart docker
#@ include end.sh
