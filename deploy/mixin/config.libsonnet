// What can be set. Lay your own over it:
//
//   (import 'mixin.libsonnet') + { _config+:: { selector: 'job="monitoring/regproxy"' } }
{
  _config+:: {
    // Which targets are regproxy's: PromQL matchers, without braces.
    selector: 'job="regproxy"',

    // The label that tells clusters apart where one Prometheus has several; harmless where nobody sets it.
    clusterLabel: 'cluster',
    // Labels that proxies have in common which belong together: their hits, stale answers and quotas are summed up.
    groupLabels: [$._config.clusterLabel, 'namespace', 'job'],
    // Labels of one proxy.
    instanceLabels: $._config.groupLabels + ['instance'],

    // Where the pages of docs/runbooks/ can be read, without a slash at the end.
    runbookBaseUrl: 'https://git.example/regproxy/docs/runbooks',

    // --- thresholds ---

    // Part of a registry's quota that is left.
    quotaLow: 0.1,
    // How long back the consumption of a quota is looked at.
    quotaRateWindow: '30m',
    // Seconds until a registry renews its quota: Docker Hub's window.
    quotaWindowSeconds: 6 * 3600,
    // How often clients or the proxy have to be refused with 429, for this alert: once in this time, for its `for`.
    refusedWindow: '5m',

    // Hit ratios are compared with those of the same time so many days ago (those that there are).
    hitRatioDays: [1, 2, 3, 7],
    // Alert below this part of the former ratio.
    hitRatioFall: 0.5,
    // Requests a second, over an hour, below which a ratio means nothing.
    hitRatioMinRequests: 0.05,
    // Part of the answers from the cache that are stale. Where REGPROXY_SWR_* are set, stale answers are wanted: raise it.
    staleShare: 0.2,
    // Requests a second, over 15 minutes, below which that share means nothing.
    staleMinRequests: 0.02,

    // Workers that ended unasked in 15 minutes.
    workerExits: 2,
    // How far ahead the disk is looked at, and on which past.
    diskHours: 96,
    diskWindow: '6h',
    // Days before the CA's end: warning, critical.
    caDays: 30,
    caDaysCritical: 7,
    // Days before a leaf's end. Those in use are renewed when 30 of their 90 days are left.
    leafDays: 7,
    // Logins of clients that were refused, a second, and logins of the proxy that token servers refused in 15 minutes.
    refusedLogins: 0.5,
    refusedUpstreamLogins: 5,

    // Per alert: other values of `for` and `severity`, more labels, or `enabled: false`.
    //   alerts+: { RegproxyCircuitOpen+: { 'for': '1m', severity: 'critical', labels: { team: 'infra' } } }
    alerts: {},

    dashboards: {
      tags: ['regproxy'],
      uidPrefix: 'regproxy-',
      refresh: '1m',
      from: 'now-6h',
      timezone: 'browser',
    },
  },
}
