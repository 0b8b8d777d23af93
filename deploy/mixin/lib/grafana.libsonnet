// Dashboards, panels and queries of Grafana 10 and later (schemaVersion 39), as far as they are needed here.
local datasource = { type: 'prometheus', uid: '${datasource}' };

{
  local grafana = self,

  // `instant`: one value now, for stats and tables.
  query(expr, legend='', instant=false):: {
    datasource: datasource,
    expr: std.stripChars(expr, ' \n'),
    legendFormat: legend,
    [if instant then 'instant']: true,
    [if instant then 'range']: false,
  },

  local panel(kind, title, description, unit, queries) = {
    type: kind,
    title: title,
    description: description,
    datasource: datasource,
    fieldConfig: { defaults: { unit: unit }, overrides: [] },
    targets: [queries[i] { refId: std.char(65 + i) } for i in std.range(0, std.length(queries) - 1)],
  },

  timeseries(title, description, unit, queries, stacked=false, max=null):: panel('timeseries', title, description, unit, queries) {
    fieldConfig+: {
      defaults+: {
        min: 0,
        [if max != null then 'max']: max,
        color: { mode: 'palette-classic' },
        custom: {
          drawStyle: 'line',
          lineWidth: 1,
          fillOpacity: if stacked then 30 else 5,
          showPoints: 'never',
          spanNulls: false,
          stacking: { mode: if stacked then 'normal' else 'none', group: 'A' },
        },
      },
    },
    options: {
      legend: { displayMode: 'list', placement: 'bottom', showLegend: true },
      tooltip: { mode: 'multi', sort: 'desc' },
    },
  },

  // `steps`: [[from, colour]...], the first one's `from` is null.
  stat(title, description, unit, queries, steps, mappings=[]):: panel('stat', title, description, unit, queries) {
    fieldConfig+: {
      defaults+: {
        color: { mode: 'thresholds' },
        mappings: mappings,
        thresholds: { mode: 'absolute', steps: [{ value: step[0], color: step[1] } for step in steps] },
      },
    },
    options: {
      colorMode: 'background',
      graphMode: 'none',
      justifyMode: 'auto',
      orientation: 'auto',
      reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
      textMode: 'auto',
    },
  },

  // `columns`: { label: heading }; several queries become columns `Value #A`, `Value #B`... `units`: { heading: unit }.
  table(title, description, unit, queries, columns, units={}):: panel('table', title, description, unit, [
    query { format: 'table' }
    for query in queries
  ]) {
    fieldConfig+: {
      defaults+: { custom: { align: 'auto' } },
      overrides: [
        {
          matcher: { id: 'byName', options: heading },
          properties: [{ id: 'unit', value: units[heading] }],
        }
        for heading in std.objectFields(units)
      ],
    },
    options: { showHeader: true, cellHeight: 'sm' },
    transformations: [
      { id: 'merge', options: {} },
      {
        id: 'organize',
        options: {
          excludeByName: { Time: true },
          indexByName: {},
          renameByName: columns,
        },
      },
    ],
  },

  row(title):: { type: 'row', title: title, collapsed: false, panels: [] },

  local variable(name, label, query, all) = {
    name: name,
    label: label,
    type: 'query',
    datasource: datasource,
    definition: query,
    query: { query: query, refId: 'Variable-' + name },
    refresh: 2,  // whenever the time range changes
    sort: 1,
    multi: true,
    includeAll: true,
    allValue: all,
    current: { selected: true, text: ['All'], value: ['$__all'] },
    hide: 0,
    regex: '',
    options: [],
  },

  // Variables by which every query is limited; a cluster's label may be missing.
  variables(clusterLabel):: [
    {
      name: 'datasource',
      label: 'Data source',
      type: 'datasource',
      query: 'prometheus',
      refresh: 1,
      regex: '',
      multi: false,
      includeAll: false,
      hide: 0,
      options: [],
      current: {},
    },
    variable('cluster', 'Cluster', 'label_values(regproxy_build_info, %s)' % clusterLabel, '.*'),
    variable(
      'job', 'Job', 'label_values(regproxy_build_info{%s=~"$cluster"}, job)' % clusterLabel, '.+'
    ),
    variable(
      'instance',
      'Instance',
      'label_values(regproxy_build_info{%s=~"$cluster", job=~"$job"}, instance)' % clusterLabel,
      '.+'
    ),
  ],

  registryVariable(clusterLabel):: variable(
    'registry',
    'Registry',
    'label_values(regproxy_requests_total{%s=~"$cluster", job=~"$job", instance=~"$instance"}, registry)' % clusterLabel,
    '.+'
  ),

  // `lines`: [[height, panel...]...]; the panels of a line share its 24 columns, a row has a line of its own.
  dashboard(title, uid, description, settings, variables, lines, links):: {
    local width(line) = std.floor(24 / (std.length(line) - 1)),
    local top(at) = std.foldl(function(sum, line) sum + line[0], lines[:at], 0),
    local placed = [
      lines[y][x] {
        gridPos: {
          x: (x - 1) * width(lines[y]),
          y: top(y),
          w: if lines[y][x].type == 'row' then 24 else width(lines[y]),
          h: lines[y][0],
        },
      }
      for y in std.range(0, std.length(lines) - 1)
      for x in std.range(1, std.length(lines[y]) - 1)
    ],

    title: title,
    uid: uid,
    description: description,
    tags: settings.tags,
    timezone: settings.timezone,
    refresh: settings.refresh,
    time: { from: settings.from, to: 'now' },
    schemaVersion: 39,
    editable: false,
    graphTooltip: 1,
    fiscalYearStartMonth: 0,
    weekStart: '',
    liveNow: false,
    id: null,
    annotations: {
      list: [
        {
          builtIn: 1,
          datasource: { type: 'grafana', uid: '-- Grafana --' },
          enable: true,
          hide: true,
          iconColor: 'rgba(0, 211, 255, 1)',
          name: 'Annotations & Alerts',
          type: 'dashboard',
        },
      ],
    },
    links: links,
    templating: { list: variables },
    panels: [placed[i] { id: i + 1 } for i in std.range(0, std.length(placed) - 1)],
  },
}
