// The alerts as Prometheus wants them, from `_alerts`: groups of { name: { for, severity, expr, summary, description } }.
{
  local config = $._config,
  local rule(name, alert) =
    local set = alert + (if std.objectHas(config.alerts, name) then config.alerts[name] else {});
    {
      alert: name,
      expr: set.expr,
      'for': set['for'],
      labels: { severity: set.severity } + (if std.objectHas(set, 'labels') then set.labels else {}),
      annotations: {
        summary: set.summary,
        description: set.description,
        runbook_url: '%s/%s.md' % [config.runbookBaseUrl, name],
      },
    },
  local enabled(name) =
    !std.objectHas(config.alerts, name) ||
    !std.objectHas(config.alerts[name], 'enabled') ||
    config.alerts[name].enabled,

  // An override of an alert that does not exist would change nothing, and nobody would know.
  local known = std.flattenArrays([std.objectFields($._alerts[group]) for group in std.objectFields($._alerts)]),
  assert std.length(std.setDiff(std.objectFields(config.alerts), std.set(known))) == 0 :
         '_config.alerts names alerts that there are not: ' +
         std.join(', ', std.setDiff(std.objectFields(config.alerts), std.set(known))),

  prometheusAlerts+:: {
    groups+: [
      {
        name: 'regproxy.' + group,
        rules: [
          rule(name, $._alerts[group][name])
          for name in std.objectFields($._alerts[group])
          if enabled(name)
        ],
      }
      for group in std.objectFields($._alerts)
    ],
  },
}
