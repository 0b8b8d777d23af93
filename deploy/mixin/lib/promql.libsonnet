// Pieces of PromQL.
{
  // A list of labels as `by` and `on` want it.
  labels(names):: std.join(', ', names),

  // Answers that came from the cache, and those that might have: by the label `cache`.
  hit:: 'HIT|STALE|UPDATING|REVALIDATED',
  cacheable:: self.hit + '|MISS|EXPIRED',

  // Rate of answered requests whose cache status matches, summed by labels. `matchers`: the targets.
  requests(matchers, cache, window, by):: |||
    sum by (%(by)s) (rate(regproxy_requests_total{%(matchers)s, cache=~"%(cache)s", code=~"2..|304"}[%(window)s]))
  ||| % { by: $.labels(by), matchers: matchers, cache: cache, window: window },

  // Part of requests with one cache status among those with another; 0 where there are none of the first.
  share(matchers, part, whole, window, by, min):: |||
    (
      %(part)s
      or
      0 * %(whole)s
    )
    /
    (%(whole)s > %(min)g)
  ||| % {
    part: std.stripChars($.requests(matchers, part, window, by), '\n'),
    whole: std.stripChars($.requests(matchers, whole, window, by), '\n'),
    min: min,
  },

  // Events that a counter has counted, also the one with which its series began: increase() does not see that one.
  events(selector, window, by):: |||
    sum by (%(by)s) (
      increase(%(selector)s[%(window)s]) > 0
      or
      (%(selector)s unless %(selector)s offset %(window)s)
    )
  ||| % { by: $.labels(by), selector: selector, window: window },
}
