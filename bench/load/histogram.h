/* A log-linear histogram of nanoseconds, as HdrHistogram has it with three significant digits.
 *
 * Values up to 2,047 are counted one by one; each further power of two is cut into 1,024 steps. So what is read
 * from it is at most 1/1024 (0.1 %) above what was put in, and never below; the least and the greatest are exact.
 * Memory is fixed (280 kB), and a value costs a shift and an increment however many there were.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H
#include <stdint.h>

enum { STEPS = 1024, POWERS = 34 }; /* 2^44 ns, 4.8 hours; what is longer counts as that */

typedef struct {
    uint64_t count, least, greatest;
    double sum;
    uint64_t counts[STEPS * (POWERS + 1)];
} Histogram;

void histogram_add(Histogram *h, uint64_t value);
/* The least value that a share `q` (0 to 1) of all values does not exceed; 0 without any value. */
uint64_t histogram_quantile(const Histogram *h, double q);
double histogram_mean(const Histogram *h);

#endif
