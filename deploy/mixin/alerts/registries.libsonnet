// Alerts on registries: quotas, refusals, circuits, logins.
local promql = import '../lib/promql.libsonnet';

{
  local config = $._config,
  local selector = config.selector,
  local quota = promql.labels(config.groupLabels + ['registry', 'credential']),
  local registry = promql.labels(config.instanceLabels + ['registry']),

  _alerts+:: {
    registries: {
      RegproxyQuotaLow: {
        'for': '5m',
        severity: 'warning',
        // What is left is what the registry said last. Where nobody asks, that was long ago.
        expr: |||
          min by (%(by)s) (regproxy_quota_remaining{%(selector)s} / (regproxy_quota_limit{%(selector)s} > 0)) < %(low)g
          and
          sum by (%(by)s) (increase(regproxy_upstream_manifest_requests_total{%(selector)s}[1h])) > 0
        ||| % { by: quota, selector: selector, low: config.quotaLow },
        summary: '{{ $value | humanizePercentage }} of the quota of {{ $labels.credential }} at {{ $labels.registry }} is left',
        description: 'When nothing is left, {{ $labels.registry }} refuses what nobody has pulled yet, until its window is over. What'
                     + ' is held is served on. Tags last longer meanwhile (REGPROXY_QUOTA_RESERVE).',
      },
      RegproxyQuotaEndsEarly: {
        'for': '15m',
        severity: 'warning',
        expr: |||
          min by (%(by)s) (
            regproxy_quota_remaining{%(selector)s}
            + deriv(regproxy_quota_remaining{%(selector)s}[%(window)s]) * %(seconds)d
          ) < 0
        ||| % { by: quota, selector: selector, window: config.quotaRateWindow, seconds: config.quotaWindowSeconds },
        summary: 'The quota of {{ $labels.credential }} at {{ $labels.registry }} will not last',
        description: 'At the rate of the last %s the quota of {{ $labels.credential }} at {{ $labels.registry }} is used up before the' % config.quotaRateWindow
                     + ' registry renews it.',
      },
      RegproxyTooManyRequests: {
        'for': '10m',
        severity: 'critical',
        // A refusal is believed: while the registry is not asked, the proxy itself answers 429 in its place.
        expr: |||
          sum by (%(by)s) (rate(regproxy_upstream_429_total{%(selector)s}[%(window)s])) > 0
          or
          sum by (%(by)s) (rate(regproxy_requests_total{%(selector)s, code="429"}[%(window)s])) > 0
        ||| % { by: registry, selector: selector, window: config.refusedWindow },
        summary: '{{ $labels.registry }} refuses regproxy at {{ $labels.instance }} (429)',
        description: '{{ $labels.registry }} has refused requests as too many for 10 minutes. Pulls of what is held go on; pulls of'
                     + ' what is not held fail with 429.',
      },
      RegproxyCircuitOpen: {
        'for': '5m',
        severity: 'warning',
        expr: 'max by (%s) (regproxy_circuit_open{%s}) == 1\n' % [registry, selector],
        summary: 'regproxy at {{ $labels.instance }} can not reach {{ $labels.registry }}',
        description: '{{ $labels.registry }} has given no answer at all, neither to a connection nor to a request, for 5 minutes.'
                     + ' What is held is served; everything else of it gets 503.',
      },
      RegproxyUpstreamLoginRefused: {
        'for': '0m',
        severity: 'warning',
        expr: |||
          sum by (%(by)s) (
            increase(regproxy_token_fetches_total{%(selector)s, outcome="refused", credential!="anonymous"}[15m])
          ) > %(most)d
        ||| % {
          by: promql.labels(config.instanceLabels + ['registry', 'credential']),
          selector: selector,
          most: config.refusedUpstreamLogins,
        },
        summary: 'The login {{ $labels.credential }} is refused for {{ $labels.registry }}',
        description: '{{ $value | humanize }} requests for tokens with the login {{ $labels.credential }} were refused within 15'
                     + ' minutes. Requests go without it meanwhile: private images fail with 401, public ones use the quota of'
                     + ' the address.',
      },
    },
  },
}
