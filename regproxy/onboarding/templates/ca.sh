
# The proxy's CA, into the system's store: Debian, Ubuntu and Alpine; RHEL, Fedora and Amazon Linux; SUSE.
install_ca() {
    if [ -d "$ROOT/etc/pki/ca-trust/source/anchors" ]; then
        anchor=/etc/pki/ca-trust/source/anchors/regproxy.crt trust=update-ca-trust
    elif [ -d "$ROOT/etc/pki/trust/anchors" ]; then
        anchor=/etc/pki/trust/anchors/regproxy.crt trust=update-ca-certificates
    elif [ -d "$ROOT/usr/local/share/ca-certificates" ] || [ -e "$ROOT/usr/sbin/update-ca-certificates" ]; then
        anchor=/usr/local/share/ca-certificates/regproxy.crt trust=update-ca-certificates
    elif [ -e "$ROOT/etc/alpine-release" ]; then
        die "install the package first: apk add ca-certificates"
    else
        die "no known place for CA certificates here: install http://$PROXY/ca.crt by hand"
    fi
    command -v "$trust" >/dev/null || die "$trust is not here: install the package ca-certificates first"
    trusted_before=$CHANGED CHANGED=no
    # A file for each certificate: openssl rehash passes over those that have several.
@CA_ANCHORS@
    number=@CA_COUNT@
    while [ "$number" -lt 9 ]; do # those of CAs that were replaced
        number=$((number + 1)) former="${anchor%.crt}-$number.crt"
        if [ -e "$ROOT$former" ] && noted file "$former"; then
            rm -f "$ROOT$former"
            CHANGED=yes
            say "removed $former"
        fi
    done
    note trust "$trust"
    case "$CHANGED$trust" in
        yesupdate-ca-trust) update-ca-trust extract ;;
        yesupdate-ca-certificates) update-ca-certificates ;;
    esac
    [ "$trusted_before" = no ] || CHANGED=yes
}
