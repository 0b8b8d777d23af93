#include "histogram.h"

#include <math.h>
#include <stddef.h>

/* Which counter a value has. The shift leaves 11 bits of it, of which the first is 1 but for small ones. */
static size_t slot(uint64_t value)
{
    unsigned shift = value < 2 * STEPS ? 0 : 53 - (unsigned)__builtin_clzll(value);
    if (shift >= POWERS) return STEPS * (POWERS + 1) - 1;
    return (size_t)shift * STEPS + (size_t)(value >> shift);
}

/* The greatest value that has this counter. */
static uint64_t top(size_t slot)
{
    size_t shift = slot < 2 * STEPS ? 0 : slot / STEPS - 1;
    return ((uint64_t)(slot - shift * STEPS + 1) << shift) - 1;
}

void histogram_add(Histogram *h, uint64_t value)
{
    if (h->count == 0 || value < h->least) h->least = value;
    if (value > h->greatest) h->greatest = value;
    h->count++;
    h->sum += (double)value;
    h->counts[slot(value)]++;
}

uint64_t histogram_quantile(const Histogram *h, double q)
{
    uint64_t rank = (uint64_t)ceil(q * (double)h->count), seen = 0;
    if (h->count == 0 || rank <= 1) return h->least;
    if (rank >= h->count) return h->greatest;
    for (size_t i = 0; i < sizeof h->counts / sizeof *h->counts - 1; i++) {
        seen += h->counts[i];
        if (seen >= rank) return top(i) < h->greatest ? top(i) : h->greatest;
    }
    return h->greatest; /* the last counter has all that are longer, too */
}

double histogram_mean(const Histogram *h)
{
    return h->count ? h->sum / (double)h->count : 0;
}
