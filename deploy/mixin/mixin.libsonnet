// The mixin, in the shape that monitoring mixins have: prometheusAlerts, prometheusRules, grafanaDashboards.
(import 'config.libsonnet') +
(import 'rules.libsonnet') +
(import 'alerts/proxies.libsonnet') +
(import 'alerts/cache.libsonnet') +
(import 'alerts/registries.libsonnet') +
(import 'alerts/alerts.libsonnet') +
(import 'dashboards/dashboards.libsonnet')
