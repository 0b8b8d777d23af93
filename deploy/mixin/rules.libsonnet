// Recording rules. Names: what is left of labels, the metric, what was done to it.
local promql = import 'lib/promql.libsonnet';

{
  local config = $._config,
  local group = config.groupLabels,
  local selector = config.selector,

  local former = std.join('\nor\n', [
    'label_replace(job:regproxy_hit_ratio:rate1h offset %dd, "day", "%d", "", "")' % [day, day]
    for day in config.hitRatioDays
  ]),

  prometheusRules+:: {
    groups+: [
      {
        name: 'regproxy.rules',
        rules: [
          {
            record: 'job_registry:regproxy_cacheable_requests:rate5m',
            expr: promql.requests(selector, promql.cacheable, '5m', group + ['registry']),
          },
          {
            record: 'job_registry:regproxy_hits:rate5m',
            expr: promql.requests(selector, promql.hit, '5m', group + ['registry']),
          },
          {
            record: 'job:regproxy_hit_ratio:rate1h',
            expr: promql.share(selector, promql.hit, promql.cacheable, '1h', group, config.hitRatioMinRequests),
          },
          {
            record: 'job:regproxy_hit_ratio_former:rate1h',
            expr: 'avg by (%s) (\n%s\n)\n' % [promql.labels(group), former],
          },
          {
            record: 'job:regproxy_byte_hit_ratio:rate1h',
            expr: |||
              sum by (%(by)s) (rate(regproxy_saved_bytes_total{%(selector)s}[1h]))
              /
              (sum by (%(by)s) (rate(regproxy_client_bytes_total{%(selector)s, cache=~"%(cacheable)s"}[1h])) > 0)
            ||| % { by: promql.labels(group), selector: selector, cacheable: promql.cacheable },
          },
          {
            record: 'job_registry:regproxy_stale_ratio:rate15m',
            expr: promql.share(
              selector, 'STALE', promql.cacheable, '15m', group + ['registry'], config.staleMinRequests
            ),
          },
          {
            // What the cache could take if all but it stayed as it is: filling the cache does not change it.
            record: 'instance:regproxy_cache_room_bytes:sum',
            expr: 'regproxy_cache_disk_free_bytes{%(selector)s} + regproxy_cache_bytes{%(selector)s}\n' % config,
          },
        ],
      },
    ],
  },
}
