// Alerts on the cache and its disk.
local promql = import '../lib/promql.libsonnet';

{
  local config = $._config,
  local by = promql.labels(config.instanceLabels),
  local selector = config.selector,

  _alerts+:: {
    cache: {
      RegproxyStoreFailing: {
        'for': '5m',
        severity: 'critical',
        expr: 'min by (%s) (regproxy_store_ok{%s}) == 0\n' % [by, selector],
        summary: 'regproxy at {{ $labels.instance }} can not write to its cache',
        description: 'The disk of {{ $labels.instance }} takes nothing. Pulls go on, but what is not held is passed on without'
                     + ' being stored: each client downloads it anew, and the quotas of registries pay for it.',
      },
      RegproxyDiskFilling: {
        'for': '1h',
        severity: 'warning',
        expr: |||
          predict_linear(instance:regproxy_cache_room_bytes:sum{%(selector)s}[%(diskWindow)s], %(diskHours)d * 3600)
          < 0.9 * instance:regproxy_cache_room_bytes:sum{%(selector)s}
          and
          predict_linear(instance:regproxy_cache_room_bytes:sum{%(selector)s}[%(diskWindow)s], %(diskHours)d * 3600)
          < regproxy_cache_max_bytes{%(selector)s} + regproxy_cache_min_free_bytes{%(selector)s}
        ||| % config,
        summary: 'Something fills the disk of the cache of regproxy at {{ $labels.instance }}',
        description: 'Something else than the cache fills its disk at {{ $labels.instance }}. At this rate {{ $value | humanize1024 }}B'
                     + ' are left for the cache in %d hours, less than CACHE_MAX_SIZE: then it shrinks, and in the end nothing is' % config.diskHours
                     + ' stored.',
      },
      RegproxyDiskBelowFloor: {
        'for': '5m',
        severity: 'warning',
        expr: |||
          max_over_time(regproxy_cache_disk_free_bytes{%(selector)s}[10m])
          < regproxy_cache_min_free_bytes{%(selector)s}
        ||| % config,
        summary: 'The disk of the cache of regproxy at {{ $labels.instance }} is full',
        description: 'At most {{ $value | humanize1024 }}B were free in 10 minutes, less than REGPROXY_MIN_FREE, and removing'
                     + ' content does not help: what is left in the cache is pinned, or others take the disk.',
      },
      RegproxyDigestMismatch: {
        'for': '0m',
        severity: 'warning',
        expr: '%s> 0\n' % promql.events(
          'regproxy_digest_mismatches_total{%s}' % selector, '1h', config.instanceLabels + ['registry']
        ),
        summary: '{{ $labels.registry }} has sent content that is not what its digest names',
        description: '{{ $value | humanize }} bodies from {{ $labels.registry }} did not match their digest within an hour. They were'
                     + ' neither stored nor served to their end: something between here and the registry damages or replaces'
                     + ' content.',
      },
      RegproxyHitRatioHalved: {
        'for': '30m',
        severity: 'warning',
        expr: |||
          job:regproxy_hit_ratio:rate1h{%(selector)s}
          < %(fall)g * job:regproxy_hit_ratio_former:rate1h{%(selector)s}
        ||| % { selector: selector, fall: config.hitRatioFall },
        summary: 'The hit ratio of {{ $labels.job }} is far below that of other days',
        description: '{{ $value | humanizePercentage }} of the requests of the last hour were answered from the cache, less than %g of' % config.hitRatioFall
                     + ' what it was at this time on former days. Registries are asked more, and quotas are used up faster.',
      },
      RegproxyStaleShareHigh: {
        'for': '15m',
        severity: 'warning',
        expr: 'job_registry:regproxy_stale_ratio:rate15m{%s} > %g\n' % [selector, config.staleShare],
        summary: '{{ $value | humanizePercentage }} of the answers for {{ $labels.registry }} are stale',
        description: '{{ $labels.registry }} is in trouble or refuses this proxy. Tags are answered with the copies that are held,'
                     + ' {{ $value | humanizePercentage }} of all answers: pulls work, but do not see what was pushed lately.',
      },
    },
  },
}
