// The files below deploy/ that `make mixin` writes: jsonnet -S -m deploy deploy/mixin/deploy.jsonnet
local mixin = import 'mixin.libsonnet';
local note = '# Written by `make mixin` from deploy/mixin/.\n';
local yaml(value) = note + std.manifestYamlDoc(value, indent_array_in_object=true) + '\n';

{
  'prometheus/alerts.yaml': yaml(mixin.prometheusAlerts),
  'prometheus/rules.yaml': yaml(mixin.prometheusRules),
} + {
  ['grafana/' + name]: std.manifestJsonEx(mixin.grafanaDashboards[name], '  ') + '\n'
  for name in std.objectFields(mixin.grafanaDashboards)
}
