#!/bin/sh
# containerd under systemd pulls through regproxy at http://@PROXY@: HTTPS_PROXY in a drop-in, the CA in the system's store.
# Containers go on while containerd restarts. For mirror mode, without a CA, take /setup/containerd instead.
#@ include common.sh
#@ include no-proxy.sh
#@ include ca.sh

[ -d "$ROOT/etc/systemd" ] || die "there is no systemd here; take /setup/containerd"
install_ca
put /etc/systemd/system/containerd.service.d/http-proxy.conf <<EOF
[Service]
Environment="HTTPS_PROXY=http://$PROXY"
Environment="NO_PROXY=$NO_PROXY_LIST"
EOF
restart containerd
#@ include end.sh
