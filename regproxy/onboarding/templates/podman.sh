#!/bin/sh
# podman, buildah and skopeo ask regproxy at http://@PROXY@ first, by a file in registries.conf.d. No CA is needed; --ca
# installs it all the same.
#@ include common.sh
#@ include ca.sh

put /etc/containers/registries.conf.d/050-regproxy.conf <<'EOF'
#@ include registries.conf
EOF
if wants_ca; then
    install_ca
fi
#@ include end.sh
