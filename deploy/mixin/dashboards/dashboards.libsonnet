// All dashboards. `m` are the matchers that every query has.
{
  local config = $._config,
  local grafana = import '../lib/grafana.libsonnet',
  local matchers = '%s=~"$cluster", job=~"$job", instance=~"$instance"' % config.clusterLabel,
  local links = [{
    title: 'regproxy',
    type: 'dashboards',
    tags: config.dashboards.tags,
    asDropdown: true,
    includeVars: true,
    keepTime: true,
    targetBlank: false,
    icon: 'external link',
    tooltip: '',
    url: '',
  }],
  local made(name, title, description, lines, more=[]) = grafana.dashboard(
    title,
    config.dashboards.uidPrefix + name,
    description,
    config.dashboards,
    grafana.variables(config.clusterLabel) + more,
    lines,
    links,
  ),

  grafanaDashboards+:: {
    'overview.json': made(
      'overview',
      'regproxy / Overview',
      'Is it well, and what is wrong? For whoever was woken up.',
      (import 'overview.libsonnet')(matchers, config),
    ),
    'registries.json': made(
      'registries',
      'regproxy / Registries and quotas',
      'What registries are asked for, what they say, and what is left of their quotas.',
      (import 'registries.libsonnet')(matchers + ', registry=~"$registry"', matchers + ', host=~"$registry"', config),
      [grafana.registryVariable(config.clusterLabel)],
    ),
    'performance.json': made(
      'performance',
      'regproxy / Performance and fleet',
      'How fast it is, what its processes do, and what the cache holds; each proxy beside the others.',
      (import 'performance.libsonnet')(matchers, config),
    ),
  },
}
