#!/bin/sh
# RKE2 asks regproxy at http://@PROXY@ first, by registries.yaml. Run it on servers and agents. Pods go on while RKE2
# restarts. No CA is needed; --ca installs it all the same.
#@ include common.sh
#@ include ca.sh

FILE=/etc/rancher/rke2/registries.yaml
#@ include registries-yaml.sh
restart rke2-server
restart rke2-agent
#@ include end.sh
