// Performance and fleet: `m` are the matchers of every query.
local g = import '../lib/grafana.libsonnet';
local quantiles(name, m, by) = [
  g.query('histogram_quantile(%g, sum by (%s, le) (rate(%s_bucket{%s}[$__rate_interval])))' % [part, by, name, m], '{{%s}} %d %%' % [by, part * 100])
  for part in [0.5, 0.95]
];

function(m, config) [
  [1, g.row('Fleet')],
  [
    7,
    g.table(
      'Proxies',
      'Each proxy: its version, workers, connections, the bytes in its cache and those free on the disk.',
      'short',
      [
        g.query('max by (instance, version, python, openssl) (regproxy_build_info{%s})' % m, instant=true),
        g.query('sum by (instance) (regproxy_workers{%s})' % m, instant=true),
        g.query('sum by (instance) (regproxy_connections_open{%s})' % m, instant=true),
        g.query('sum by (instance) (regproxy_cache_objects{%s})' % m, instant=true),
        g.query('sum by (instance) (regproxy_cache_bytes{%s})' % m, instant=true),
        g.query('sum by (instance) (regproxy_cache_disk_free_bytes{%s})' % m, instant=true),
      ],
      {
        instance: 'Instance',
        version: 'Version',
        python: 'Python',
        openssl: 'OpenSSL',
        'Value #A': 'Up',
        'Value #B': 'Workers',
        'Value #C': 'Connections',
        'Value #D': 'Objects',
        'Value #E': 'Cache',
        'Value #F': 'Free',
      },
      { Cache: 'bytes', Free: 'bytes' },
    ),
    g.timeseries(
      'Requests by proxy',
      'Whether balancing is even.',
      'reqps',
      [g.query('sum by (instance) (rate(regproxy_requests_total{%s}[$__rate_interval]))' % m, '{{instance}}')],
    ),
  ],
  [1, g.row('Requests')],
  [
    8,
    g.timeseries(
      'Time of hits',
      'From a request to the end of its answer, from the cache; a slow client makes it long.',
      's',
      quantiles('regproxy_request_duration_seconds', m + ', cache="HIT"', 'type'),
    ),
    g.timeseries(
      'Time of all requests',
      'The same by cache status. BYPASS and none: passed on, uncached.',
      's',
      quantiles('regproxy_request_duration_seconds', m, 'cache'),
    ),
    g.timeseries(
      'Requests by type',
      'Content by digest, tags by tier, pings, tokens.',
      'reqps',
      [g.query('sum by (type) (rate(regproxy_requests_total{%s}[$__rate_interval]))' % m, '{{type}}')],
      stacked=true,
    ),
  ],
  [
    7,
    g.timeseries(
      'Hits without a look-up',
      'Hits that came again within a second, and were answered from memory (REGPROXY_REPEAT_ANSWERS).',
      'reqps',
      [g.query('sum by (instance) (rate(regproxy_repeated_answers_total{%s}[$__rate_interval]))' % m, '{{instance}}')],
    ),
    g.timeseries(
      'Downloads',
      'Begun, failed (by reason), resumed.',
      'ops',
      [
        g.query('sum(rate(regproxy_fills_total{%s}[$__rate_interval]))' % m, 'begun'),
        g.query('sum by (reason) (rate(regproxy_fill_failures_total{%s}[$__rate_interval]))' % m, 'failed: {{reason}}'),
        g.query('sum(rate(regproxy_fill_resumes_total{%s}[$__rate_interval]))' % m, 'resumed'),
      ],
    ),
    g.timeseries(
      'Requests that share a download',
      'How many requests a download has served when it ends: half of the downloads at most so many, and 95 %.',
      'short',
      [
        g.query('histogram_quantile(%g, sum by (le) (rate(regproxy_fill_requests_bucket{%s}[$__rate_interval])))' % [part, m], '%d %%' % (part * 100))
        for part in [0.5, 0.95]
      ],
    ),
    g.timeseries(
      'Downloads under way',
      'By proxy, and requests that read from them.',
      'short',
      [
        g.query('sum by (instance) (regproxy_fills_active{%s})' % m, '{{instance}} downloads'),
        g.query('sum by (instance) (regproxy_fill_waiters{%s})' % m, '{{instance}} readers'),
      ],
    ),
  ],
  [1, g.row('Connections')],
  [
    7,
    g.timeseries(
      'Connections',
      'Open with clients and upstreams, and tunnels to hosts that are not intercepted.',
      'short',
      [
        g.query('sum by (instance) (regproxy_connections_open{%s})' % m, '{{instance}}'),
        g.query('sum by (instance) (regproxy_tunnels_open{%s})' % m, '{{instance}} tunnels'),
      ],
    ),
    g.timeseries(
      'New connections and TLS handshakes',
      'Connections that workers took, tunnels opened, handshakes by side and result.',
      'ops',
      [
        g.query('sum by (result) (rate(regproxy_accepts_total{%s}[$__rate_interval]))' % m, 'accepted: {{result}}'),
        g.query('sum(rate(regproxy_tunnels_total{%s}[$__rate_interval]))' % m, 'tunnels'),
        g.query('sum by (side, result) (rate(regproxy_tls_handshakes_total{%s}[$__rate_interval]))' % m, 'TLS {{side}} {{result}}'),
      ],
    ),
    g.timeseries(
      'Bytes on the wire',
      'All connections, TLS included; bytes through tunnels that have closed.',
      'Bps',
      [
        g.query('sum by (direction) (rate(regproxy_wire_bytes_total{%s}[$__rate_interval]))' % m, '{{direction}}'),
        g.query('sum by (direction) (rate(regproxy_tunnel_bytes_total{%s}[$__rate_interval]))' % m, 'tunnels {{direction}}'),
      ],
    ),
  ],
  [
    7,
    g.timeseries(
      'Names looked up',
      'By whom they come from (lane) and outcome.',
      'ops',
      [g.query('sum by (lane, outcome) (rate(regproxy_lookups_total{%s}[$__rate_interval]))' % m, '{{lane}} {{outcome}}')],
    ),
    g.timeseries(
      'Targets refused',
      'Hosts at addresses that whoever named them may not lead to.',
      'ops',
      [g.query('sum by (by) (rate(regproxy_targets_refused_total{%s}[$__rate_interval]))' % m, 'named by {{by}}')],
    ),
    g.timeseries(
      'Clients refused',
      'Clients that were not let in, by what they lacked.',
      'ops',
      [
        g.query('sum by (kind) (rate(regproxy_refused_logins_total{%s}[$__rate_interval]))' % m, '{{kind}}'),
        g.query('sum by (outcome) (rate(regproxy_admin_logins_total{%s}[$__rate_interval]))' % m, 'admin port: {{outcome}}'),
      ],
    ),
    g.timeseries(
      'Rules for images',
      'Requests by the rule that has decided, and what.',
      'reqps',
      [g.query('sum by (rule, action) (rate(regproxy_rule_decisions_total{%s}[$__rate_interval]))' % m, '{{rule}} {{action}}')],
    ),
  ],
  [1, g.row('Cache and processes')],
  [
    7,
    g.timeseries(
      'Objects',
      'In the cache, and removed from it.',
      'short',
      [
        g.query('sum by (instance) (regproxy_cache_objects{%s})' % m, '{{instance}}'),
        g.query('sum by (instance, reason) (increase(regproxy_evicted_objects_total{%s}[$__rate_interval])) > 0' % m, '{{instance}} removed: {{reason}}'),
      ],
    ),
    g.timeseries(
      'Disk',
      'Whether it takes content (1), writes that it refused, whether the index knows all of it (1).',
      'short',
      [
        g.query('min by (instance) (regproxy_store_ok{%s})' % m, '{{instance}} takes content'),
        g.query('sum by (instance, reason) (increase(regproxy_store_failures_total{%s}[$__rate_interval]))' % m, '{{instance}} {{reason}}'),
        g.query('min by (instance) (regproxy_index_complete{%s})' % m, '{{instance}} index complete'),
      ],
    ),
    g.timeseries(
      'Comparison of index and disk',
      'How long the last one took.',
      's',
      [g.query('max by (instance) (regproxy_reconcile_seconds{%s})' % m, '{{instance}}')],
    ),
  ],
  [
    7,
    g.timeseries(
      'Workers',
      'Workers that take connections, and those that ended unasked.',
      'short',
      [
        g.query('sum by (instance) (regproxy_workers{%s})' % m, '{{instance}}'),
        g.query('sum by (instance, reason) (increase(regproxy_worker_exits_total{%s}[$__rate_interval])) > 0' % m, '{{instance}} ended: {{reason}}'),
      ],
    ),
    g.timeseries(
      'Reloads and lost lines',
      'SIGHUPs by what became of them; lines that the access log and the audit log have lost.',
      'short',
      [
        g.query('sum by (instance, result) (increase(regproxy_reloads_total{%s}[$__rate_interval])) > 0' % m, '{{instance}} reload {{result}}'),
        g.query('sum by (instance) (increase(regproxy_access_log_dropped_total{%s}[$__rate_interval])) > 0' % m, '{{instance}} access log'),
        g.query('sum by (instance) (increase(regproxy_spans_dropped_total{%s}[$__rate_interval])) > 0' % m, '{{instance}} traces'),
        g.query('sum by (instance, what) (increase(regproxy_audit_lost_total{%s}[$__rate_interval])) > 0' % m, '{{instance}} audit log: {{what}}'),
      ],
    ),
    g.timeseries(
      'Certificates end in',
      'The CA, and the first of the certificates that it has signed for hosts.',
      's',
      [
        g.query('min by (instance) (regproxy_ca_not_after_timestamp_seconds{%s}) - time()' % m, '{{instance}} CA'),
        g.query('min by (instance) (regproxy_leaf_not_after_timestamp_seconds{%s}) - time() < 1e10' % m, '{{instance}} leaf'),
      ],
    ),
  ],
]
