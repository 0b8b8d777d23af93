
# A file of somebody else may have logins in it, and can't be merged here.
if [ -e "$ROOT$FILE" ] && ! noted file "$FILE"; then
    die "$FILE is there already: add the mirrors of http://$PROXY/setup/$CLIENT to it by hand"
fi
put "$FILE" <<'EOF'
# Images are named as before. When the proxy has no answer, the registry itself is asked.
mirrors:
#@ each
  "@REGISTRY@":
    endpoint:
      - "http://@PROXY@"
#@ end
EOF
if wants_ca; then
    install_ca
fi
