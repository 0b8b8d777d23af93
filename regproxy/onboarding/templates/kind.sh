#!/bin/sh
# The nodes of a kind cluster that runs ask regproxy at http://@PROXY@ first, as /setup/containerd has it. Nodes that are
# made later need it again. Clusters of kind before 0.27 have to be made with this in their configuration:
#   containerdConfigPatches:
#     - |-
#       [plugins."io.containerd.grpc.v1.cri".registry]
#         config_path = "/etc/containerd/certs.d"
#
# Usage: sh SCRIPT [--undo] [CLUSTER]    CLUSTER is "kind" if it is not given
# Running it again changes nothing. --undo takes everything back.
set -eu
PROXY='@PROXY@' CLUSTER=kind UNDO=''

die() {
    echo "regproxy: $*" >&2
    exit 1
}

containerd_script() {
    cat <<'END_OF_CONTAINERD'
@SCRIPT_CONTAINERD@
END_OF_CONTAINERD
}

while [ $# -gt 0 ]; do
    case "$1" in
        --undo) UNDO=--undo ;;
        -*) die "unknown argument $1; it takes --undo and the name of a cluster" ;;
        *) CLUSTER=$1 ;;
    esac
    shift
done
case "$PROXY" in
    localhost | localhost:* | 127.* | '[::1]' | '[::1]:'*)
        die "$PROXY is the node itself to a node: call the proxy by a name or address that the nodes reach"
        ;;
esac
nodes=$(kind get nodes --name "$CLUSTER")
[ -n "$nodes" ] || die "kind has no nodes of a cluster $CLUSTER"
for node in $nodes; do
    echo "$node:"
    containerd_script | "${KIND_EXPERIMENTAL_PROVIDER:-docker}" exec -i "$node" sh -s -- ${UNDO:+"$UNDO"}
done
