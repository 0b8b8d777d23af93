// Alerts on the proxies themselves: processes, logs, certificates, configuration.
local promql = import '../lib/promql.libsonnet';

{
  local config = $._config,
  local by = promql.labels(config.instanceLabels),
  local selector = config.selector,

  _alerts+:: {
    proxies: {
      RegproxyDown: {
        'for': '5m',
        severity: 'critical',
        expr: 'up{%(selector)s} == 0\n' % config,
        summary: 'regproxy at {{ $labels.instance }} does not answer Prometheus',
        description: 'The admin port of {{ $labels.instance }} has not answered for 5 minutes. Clients whose only way to'
                     + ' registries it is can pull nothing, not even what is cached.',
      },
      RegproxyAbsent: {
        'for': '10m',
        severity: 'critical',
        expr: 'absent(up{%(selector)s})\n' % config,
        summary: 'Prometheus knows no regproxy',
        description: 'No target matches {%s}. Either no proxy runs, or Prometheus does not find those that do: then none of' % std.strReplace(selector, '"', "'")
                     + ' the other alerts can fire.',
      },
      RegproxyWorkersRestarting: {
        'for': '0m',
        severity: 'warning',
        expr: 'sum by (%s) (increase(regproxy_worker_exits_total{%s}[15m])) > %d\n' % [by, selector, config.workerExits],
        summary: 'Workers of regproxy at {{ $labels.instance }} keep dying',
        description: '{{ $value | humanize }} workers of {{ $labels.instance }} have ended unasked within 15 minutes. Each cuts the'
                     + ' connections that it has; clients that try again find what had been fetched.',
      },
      RegproxyReloadRefused: {
        'for': '0m',
        severity: 'warning',
        expr: 'sum by (%s) (increase(regproxy_reloads_total{%s, result=~"refused|failed"}[1h])) > 0\n' % [by, selector],
        summary: 'regproxy at {{ $labels.instance }} has refused a configuration',
        description: 'A SIGHUP of the last hour had no effect at {{ $labels.instance }}: the configuration can not be used, or no'
                     + ' worker came up with it. The former one goes on, and a restart would fail.',
      },
      RegproxyLoginsRefused: {
        'for': '10m',
        severity: 'warning',
        expr: 'sum by (%s) (rate(regproxy_refused_logins_total{%s}[5m])) > %g\n'
              % [promql.labels(config.instanceLabels + ['kind']), selector, config.refusedLogins],
        summary: 'regproxy at {{ $labels.instance }} turns away clients in large numbers ({{ $labels.kind }})',
        description: '{{ $value | humanize }} clients a second were not let in for 10 minutes, by {{ $labels.kind }}: a password or'
                     + ' certificate that many machines share has changed or expired, somebody guesses passwords, or a setting'
                     + ' keeps out whom it should not.',
      },
      RegproxyAccessLogLost: {
        'for': '0m',
        severity: 'warning',
        expr: 'sum by (%s) (increase(regproxy_access_log_dropped_total{%s}[15m])) > 0\n' % [by, selector],
        summary: 'regproxy at {{ $labels.instance }} loses lines of its access log',
        description: '{{ $value | humanize }} lines were lost within 15 minutes: whatever takes the log is too slow, or its disk is'
                     + ' full. Pulls are not held up.',
      },
      RegproxyAuditLogLost: {
        'for': '0m',
        severity: 'critical',
        expr: 'sum by (%s) (increase(regproxy_audit_lost_total{%s}[15m])) > 0\n'
              % [promql.labels(config.instanceLabels + ['what']), selector],
        summary: 'The audit log of regproxy at {{ $labels.instance }} is not complete',
        description: '{{ $value | humanize }} {{ $labels.what }} were lost within 15 minutes: pulls that no line shows, or lines that'
                     + ' could not be written. They can not be had again.',
      },
      RegproxyCAExpiring: {
        'for': '1h',
        severity: 'warning',
        expr: |||
          min by (%(by)s) (regproxy_ca_not_after_timestamp_seconds{%(selector)s}) - time() < %(days)d * 86400
          and
          min by (%(by)s) (regproxy_ca_not_after_timestamp_seconds{%(selector)s}) - time() >= %(critical)d * 86400
        ||| % { by: by, selector: selector, days: config.caDays, critical: config.caDaysCritical },
        summary: "regproxy's CA expires in {{ $value | humanizeDuration }}",
        description: 'The first CA in use at {{ $labels.instance }} expires in {{ $value | humanizeDuration }}. Clients need its'
                     + ' successor before that, or all their pulls fail.',
      },
      RegproxyCAAboutToExpire: {
        'for': '5m',
        severity: 'critical',
        expr: 'min by (%s) (regproxy_ca_not_after_timestamp_seconds{%s}) - time() < %d * 86400\n'
              % [by, selector, config.caDaysCritical],
        summary: "regproxy's CA expires in {{ $value | humanizeDuration }}",
        description: 'The first CA in use at {{ $labels.instance }} expires in {{ $value | humanizeDuration }} (less than nothing: it'
                     + ' has expired). From then on clients refuse each certificate that it has signed.',
      },
      RegproxyLeafExpiring: {
        'for': '1h',
        severity: 'info',
        expr: 'min by (%s) (regproxy_leaf_not_after_timestamp_seconds{%s}) - time() < %d * 86400\n'
              % [by, selector, config.leafDays],
        summary: 'A certificate of regproxy at {{ $labels.instance }} expires in {{ $value | humanizeDuration }}',
        description: 'Certificates of hosts that are asked for are renewed by themselves, with a month left. This one was not:'
                     + ' nobody asks for its host any more, which is harmless, or the CA itself ends soon.',
      },
    },
  },
}
