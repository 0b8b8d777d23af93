// Dashboards for Grafana: jsonnet -m deploy/grafana deploy/mixin/dashboards.jsonnet
(import 'mixin.libsonnet').grafanaDashboards
