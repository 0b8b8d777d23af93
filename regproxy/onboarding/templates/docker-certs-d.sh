#!/bin/sh
# dockerd 28 and newer, with the containerd image store (docker info: "driver-type: io.containerd.snapshotter.v1"), asks
# regproxy at http://@PROXY@ first, for every registry, by /etc/docker/certs.d/_default/hosts.toml. When the proxy has no
# answer, dockerd asks the registry itself. Older ones don't read it: take /setup/docker-systemd. No CA is needed; --ca
# installs it all the same.
#@ include common.sh
#@ include ca.sh

put /etc/docker/certs.d/_default/hosts.toml <<'EOF'
#@ include hosts.toml
EOF
for other in "$ROOT"/etc/docker/certs.d/*; do
    case "$other" in
        */_default) ;;
        *) say "${other#"$ROOT"} is left as it is: that registry is not asked for at the proxy" ;;
    esac
done
if wants_ca; then
    install_ca
fi
#@ include end.sh
