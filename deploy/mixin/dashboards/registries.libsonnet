// Registries and quotas: `m` are the matchers of queries with a registry, `h` of those with an upstream's host.
local g = import '../lib/grafana.libsonnet';
local promql = import '../lib/promql.libsonnet';

function(m, h, config) [
  [1, g.row('Quotas')],
  [
    8,
    g.table(
      'Quotas',
      'What is left, as the registry said last; manifests that were asked for in the last hour.',
      'short',
      [
        g.query('max by (registry, credential) (regproxy_quota_limit{%s})' % m, instant=true),
        g.query('min by (registry, credential) (regproxy_quota_remaining{%s})' % m, instant=true),
        g.query('min by (registry, credential) (regproxy_quota_remaining{%s} / (regproxy_quota_limit{%s} > 0))' % [m, m], instant=true),
        g.query('sum by (registry, credential) (increase(regproxy_upstream_manifest_requests_total{%s, method="GET"}[1h]))' % m, instant=true),
      ],
      {
        registry: 'Registry',
        credential: 'Credential',
        'Value #A': 'Limit',
        'Value #B': 'Left',
        'Value #C': 'Part',
        'Value #D': 'GETs in an hour',
      },
      { Part: 'percentunit' },
    ),
    g.timeseries(
      'Left of each quota',
      'As registries said last. Where nobody asks, it stays what it was.',
      'short',
      [g.query('min by (registry, credential) (regproxy_quota_remaining{%s})' % m, '{{registry}} {{credential}}')],
    ),
  ],
  [
    7,
    g.timeseries(
      'Manifests asked for',
      'Docker Hub counts GETs, not HEADs.',
      'reqps',
      [g.query('sum by (registry, credential, method) (rate(regproxy_upstream_manifest_requests_total{%s}[$__rate_interval]))' % m, '{{registry}} {{credential}} {{method}}')],
    ),
    g.timeseries(
      'Refused with 429',
      'By registries; and by the proxy in their place, while they are not to be asked.',
      'reqps',
      [
        g.query('sum by (registry, credential, method) (rate(regproxy_upstream_429_total{%s}[$__rate_interval]))' % m, '{{registry}} {{credential}} {{method}}'),
        g.query('sum by (registry) (rate(regproxy_requests_total{%s, code="429"}[$__rate_interval]))' % m, '{{registry}}, to clients'),
      ],
    ),
    g.timeseries(
      'Requests for tokens',
      'What token servers say: issued, refused, error.',
      'reqps',
      [g.query('sum by (registry, credential, outcome) (rate(regproxy_token_fetches_total{%s}[$__rate_interval]))' % m, '{{registry}} {{credential}} {{outcome}}')],
    ),
  ],
  [1, g.row('What clients get')],
  [
    7,
    g.timeseries(
      'Requests',
      'Requests of clients by registry.',
      'reqps',
      [g.query('sum by (registry) (rate(regproxy_requests_total{%s}[$__rate_interval]))' % m, '{{registry}}')],
      stacked=true,
    ),
    g.timeseries(
      'Hit ratio',
      'Part of the requests for content that were answered from the cache.',
      'percentunit',
      [g.query('sum by (registry) (rate(regproxy_requests_total{%s, cache=~"%s", code=~"2..|304"}[$__rate_interval])) / sum by (registry) (rate(regproxy_requests_total{%s, cache=~"%s", code=~"2..|304"}[$__rate_interval]))' % [m, promql.hit, m, promql.cacheable], '{{registry}}')],
      max=1,
    ),
    g.timeseries(
      'Stale answers',
      'Part of the answers from the cache that are stale: the registry is in trouble, or tags are renewed behind them (REGPROXY_SWR_*).',
      'percentunit',
      [g.query('sum by (registry) (rate(regproxy_requests_total{%s, cache="STALE"}[$__rate_interval])) / sum by (registry) (rate(regproxy_requests_total{%s, cache=~"%s"}[$__rate_interval]))' % [m, m, promql.cacheable], '{{registry}}')],
      max=1,
    ),
  ],
  [
    7,
    g.timeseries(
      'Saved',
      'Bytes sent to clients that did not come from the registry for it.',
      'Bps',
      [g.query('sum by (registry) (rate(regproxy_saved_bytes_total{%s}[$__rate_interval]))' % m, '{{registry}}')],
      stacked=true,
    ),
    g.timeseries(
      'Not cached',
      'Answers that could not be stored or verified, and went on as they came, by reason.',
      'reqps',
      [g.query('sum by (registry, reason) (rate(regproxy_passed_on_total{%s}[$__rate_interval]))' % m, '{{registry}} {{reason}}')],
    ),
    g.timeseries(
      'Errors to clients',
      'Answers of 400 and more by registry and status, 401 left out.',
      'reqps',
      [g.query('sum by (registry, code) (rate(regproxy_requests_total{%s, code=~"[45]..", code!="401"}[$__rate_interval]))' % m, '{{registry}} {{code}}')],
    ),
  ],
  [1, g.row('What upstreams say')],
  [
    7,
    g.timeseries(
      'Requests upstream',
      'By host and status; error: no answer.',
      'reqps',
      [g.query('sum by (host, code) (rate(regproxy_upstream_requests_total{%s}[$__rate_interval]))' % h, '{{host}} {{code}}')],
    ),
    g.timeseries(
      'Bytes from upstreams',
      'Bytes of bodies by host. Blobs often come from other hosts than the registry: choose all registries to see them.',
      'Bps',
      [g.query('sum by (host) (rate(regproxy_upstream_bytes_total{%s}[$__rate_interval]))' % h, '{{host}}')],
    ),
    g.timeseries(
      'Time until the end of an answer',
      'From a request to an upstream to the end of its answer: half of them, and 95 %, are faster.',
      's',
      [
        g.query('histogram_quantile(0.5, sum by (host, le) (rate(regproxy_upstream_request_duration_seconds_bucket{%s}[$__rate_interval])))' % h, '{{host}} 50 %'),
        g.query('histogram_quantile(0.95, sum by (host, le) (rate(regproxy_upstream_request_duration_seconds_bucket{%s}[$__rate_interval])))' % h, '{{host}} 95 %'),
      ],
    ),
  ],
  [
    7,
    g.timeseries(
      'Out of reach',
      '1: nobody answers there, and it is left alone (circuit breaker); requests that were not sent meanwhile.',
      'short',
      [
        g.query('max by (registry) (regproxy_circuit_open{%s})' % m, '{{registry}}'),
        g.query('sum by (registry) (rate(regproxy_circuit_refusals_total{%s}[$__rate_interval]))' % m, '{{registry}} not sent, a second'),
      ],
    ),
    g.timeseries(
      'Broken downloads',
      'Bodies that broke and were asked for again from there on; bodies that were not what their digest names.',
      'short',
      [
        g.query('sum by (registry) (increase(regproxy_fill_resumes_total{%s}[$__rate_interval]))' % m, '{{registry}} resumed'),
        g.query('sum by (registry) (increase(regproxy_digest_mismatches_total{%s}[$__rate_interval]))' % m, '{{registry}} wrong digest'),
      ],
    ),
    g.timeseries(
      'Requests without the configured login',
      'Requests of clients that were of no kind for which logins are used.',
      'reqps',
      [g.query('sum by (registry) (rate(regproxy_logins_withheld_total{%s}[$__rate_interval]))' % m, '{{registry}}')],
    ),
  ],
]
