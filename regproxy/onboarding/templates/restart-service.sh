# Has a service read its new configuration, if it runs.
restart_service() {
    if [ -d "$ROOT/run/systemd/system" ]; then
        systemctl daemon-reload
        systemctl try-restart "$1.service"
    elif [ -d "$ROOT/run/openrc" ]; then
        rc-service --ifstarted "$1" restart
    else
        echo "regproxy: restart $1 by hand, if it runs"
    fi
}
