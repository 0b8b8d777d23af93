#!/bin/sh
# CRI-O asks regproxy at http://@PROXY@ first, by a file in registries.conf.d. Containers go on while CRI-O restarts. No
# CA is needed; --ca installs it all the same.
#@ include common.sh
#@ include ca.sh

put /etc/containers/registries.conf.d/050-regproxy.conf <<'EOF'
#@ include registries.conf
EOF
#@ each with port
[ "$CHANGED" = no ] || say "@REGISTRY@ is not asked for at the proxy, as its name has a port: set HTTPS_PROXY=http://$PROXY, run this with --ca"
#@ end
if wants_ca; then
    install_ca
fi
restart crio
#@ include end.sh
