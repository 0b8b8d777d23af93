// The overview: `m` are the matchers of every query.
local g = import '../lib/grafana.libsonnet';
local promql = import '../lib/promql.libsonnet';
local good = [[null, 'green'], [1, 'red']];

function(m, config) [
  [1, g.row('Now')],
  [
    4,
    g.stat(
      'Proxies up',
      'Proxies whose admin port answers Prometheus.',
      'short',
      [g.query('count(max by (job, instance) (regproxy_build_info{%s})) or vector(0)' % m, instant=true)],
      [[null, 'red'], [1, 'green']],
    ),
    g.stat(
      'Alerts',
      'Alerts of the mixin that fire; the table below names them.',
      'short',
      [g.query('count(ALERTS{alertname=~"Regproxy.+", alertstate="firing", job=~"$job|", instance=~"$instance|"}) or vector(0)', instant=true)],
      good,
    ),
    g.stat(
      'Hit ratio',
      'Part of the requests for content that were answered from the cache, errors left out.',
      'percentunit',
      [g.query('sum(rate(regproxy_requests_total{%s, cache=~"%s", code=~"2..|304"}[$__rate_interval])) / sum(rate(regproxy_requests_total{%s, cache=~"%s", code=~"2..|304"}[$__rate_interval]))' % [m, promql.hit, m, promql.cacheable], instant=true)],
      [[null, 'red'], [0.3, 'orange'], [0.6, 'green']],
    ),
    g.stat(
      'Hit ratio by bytes',
      'Part of the bytes of content sent to clients that did not come over the internet for it.',
      'percentunit',
      [g.query('sum(rate(regproxy_saved_bytes_total{%s}[$__rate_interval])) / sum(rate(regproxy_client_bytes_total{%s, cache=~"%s"}[$__rate_interval]))' % [m, m, promql.cacheable], instant=true)],
      [[null, 'red'], [0.3, 'orange'], [0.6, 'green']],
    ),
    g.stat(
      'Disk takes content',
      'Whether each proxy can store. If not, pulls are passed on without being stored.',
      'short',
      [g.query('min(regproxy_store_ok{%s})' % m, instant=true)],
      [[null, 'red'], [1, 'green']],
      [{ type: 'value', options: { '0': { text: 'no' }, '1': { text: 'yes' } } }],
    ),
    g.stat(
      'Registries out of reach',
      'Registries that have given no answer, and are left alone (circuit breakers).',
      'short',
      [g.query('sum(max by (registry) (regproxy_circuit_open{%s})) or vector(0)' % m, instant=true)],
      good,
    ),
    g.stat(
      'Lowest quota',
      'The smallest part of a quota that is left, of all registries and credentials.',
      'percentunit',
      [g.query('min(regproxy_quota_remaining{%s} / (regproxy_quota_limit{%s} > 0))' % [m, m], instant=true)],
      [[null, 'red'], [config.quotaLow, 'orange'], [0.3, 'green']],
    ),
    g.stat(
      'CA expires in',
      'Until the first CA in use ends, and clients refuse what it has signed.',
      's',
      [g.query('min(regproxy_ca_not_after_timestamp_seconds{%s}) - time()' % m, instant=true)],
      [[null, 'red'], [config.caDaysCritical * 86400, 'orange'], [config.caDays * 86400, 'green']],
    ),
  ],
  [
    6,
    g.table(
      'Alerts that fire',
      'Each has a page in docs/runbooks that says what to do.',
      'short',
      [g.query('max by (alertname, severity, job, instance, registry, credential) (ALERTS{alertname=~"Regproxy.+", alertstate="firing", job=~"$job|", instance=~"$instance|"})', instant=true)],
      { alertname: 'Alert', severity: 'Severity', job: 'Job', instance: 'Instance', registry: 'Registry', credential: 'Credential', Value: '' },
    ),
    g.timeseries(
      'Errors to clients',
      'Answers of 400 and more, by status. 401 is how clients learn where tokens are, and no fault.',
      'reqps',
      [g.query('sum by (code) (rate(regproxy_requests_total{%s, code=~"[45]..", code!="401"}[$__rate_interval]))' % m, '{{code}}')],
      stacked=true,
    ),
  ],
  [1, g.row('Pulls')],
  [
    7,
    g.timeseries(
      'Requests by cache status',
      'HIT, REVALIDATED, STALE and UPDATING came from the cache or from a download under way; MISS and EXPIRED from the registry; BYPASS is not cached.',
      'reqps',
      [g.query('sum by (cache) (rate(regproxy_requests_total{%s}[$__rate_interval]))' % m, '{{cache}}')],
      stacked=true,
    ),
    g.timeseries(
      'Hit ratio',
      'By requests and by bytes, beside that of the same time on former days.',
      'percentunit',
      [
        g.query('sum(rate(regproxy_requests_total{%s, cache=~"%s", code=~"2..|304"}[$__rate_interval])) / sum(rate(regproxy_requests_total{%s, cache=~"%s", code=~"2..|304"}[$__rate_interval]))' % [m, promql.hit, m, promql.cacheable], 'by requests'),
        g.query('sum(rate(regproxy_saved_bytes_total{%s}[$__rate_interval])) / sum(rate(regproxy_client_bytes_total{%s, cache=~"%s"}[$__rate_interval]))' % [m, m, promql.cacheable], 'by bytes'),
        g.query('avg(job:regproxy_hit_ratio_former:rate1h{job=~"$job"})', 'by requests, former days'),
      ],
      max=1,
    ),
    g.timeseries(
      'Bytes',
      'To clients; those of them that were saved; what came from registries.',
      'Bps',
      [
        g.query('sum(rate(regproxy_client_bytes_total{%s}[$__rate_interval]))' % m, 'to clients'),
        g.query('sum(rate(regproxy_saved_bytes_total{%s}[$__rate_interval]))' % m, 'saved'),
        g.query('sum(rate(regproxy_upstream_bytes_total{%s}[$__rate_interval]))' % m, 'from registries'),
      ],
    ),
  ],
  [
    7,
    g.timeseries(
      'Upstream errors',
      'Requests to registries and the hosts they redirect to that were answered with 429 or 500 and more, or not at all (error).',
      'reqps',
      [g.query('sum by (host, code) (rate(regproxy_upstream_requests_total{%s, code=~"429|5..|error"}[$__rate_interval]))' % m, '{{host}} {{code}}')],
      stacked=true,
    ),
    g.timeseries(
      'Quotas',
      'Part of each quota that is left, as the registry said last.',
      'percentunit',
      [g.query('min by (registry, credential) (regproxy_quota_remaining{%s} / (regproxy_quota_limit{%s} > 0))' % [m, m], '{{registry}} {{credential}}')],
      max=1,
    ),
    g.timeseries(
      'Downloads under way',
      'Objects that are being fetched into the cache, and requests that read from them meanwhile.',
      'short',
      [
        g.query('sum(regproxy_fills_active{%s})' % m, 'downloads'),
        g.query('sum(regproxy_fill_waiters{%s})' % m, 'readers'),
      ],
    ),
  ],
  [1, g.row('Cache and processes')],
  [
    7,
    g.timeseries(
      'Cache',
      'Bytes in the cache and its limit; what is free on its disk, and what is to stay free.',
      'bytes',
      [
        g.query('sum by (instance) (regproxy_cache_bytes{%s})' % m, '{{instance}} cache'),
        g.query('sum by (instance) (regproxy_cache_max_bytes{%s}) > 0' % m, '{{instance}} limit'),
        g.query('sum by (instance) (regproxy_cache_disk_free_bytes{%s})' % m, '{{instance}} free'),
        g.query('sum by (instance) (regproxy_cache_min_free_bytes{%s})' % m, '{{instance}} to stay free'),
      ],
    ),
    g.timeseries(
      'Evicted',
      'Bytes removed from the cache: size (its limit), inactive (unused for too long), free (the disk is full).',
      'Bps',
      [g.query('sum by (reason) (rate(regproxy_evicted_bytes_total{%s}[$__rate_interval]))' % m, '{{reason}}')],
      stacked=true,
    ),
    g.timeseries(
      'Workers',
      'Workers that take connections, and those that ended unasked.',
      'short',
      [
        g.query('sum by (instance) (regproxy_workers{%s})' % m, '{{instance}}'),
        g.query('sum by (instance, reason) (increase(regproxy_worker_exits_total{%s}[$__rate_interval])) > 0' % m, '{{instance}} ended: {{reason}}'),
      ],
    ),
  ],
]
