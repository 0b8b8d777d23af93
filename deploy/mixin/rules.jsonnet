// Rule files for Prometheus: jsonnet -S -m deploy/prometheus deploy/mixin/rules.jsonnet
local mixin = import 'mixin.libsonnet';
local yaml(value) = '# Written by `make mixin` from deploy/mixin/.\n%s\n' % std.manifestYamlDoc(value, indent_array_in_object=true);

{
  'alerts.yaml': yaml(mixin.prometheusAlerts),
  'rules.yaml': yaml(mixin.prometheusRules),
}
