#!/bin/sh
# dockerd under systemd pulls through regproxy at http://@PROXY@: HTTPS_PROXY in a drop-in, the CA in the system's store.
# dockerd is restarted, and with it containers, unless it has live-restore.
#@ include common.sh
#@ include no-proxy.sh
#@ include ca.sh

[ -d "$ROOT/etc/systemd" ] || die "there is no systemd here; take /setup/docker-daemon-json"
install_ca
put /etc/systemd/system/docker.service.d/http-proxy.conf <<EOF
[Service]
Environment="HTTPS_PROXY=http://$PROXY"
Environment="NO_PROXY=$NO_PROXY_LIST"
EOF
restart docker
#@ include end.sh
