/* Whether it was the generator that was the limit: its own CPU, its waiting for a core, its lag behind the schedule.
 *
 * A latency that counts from when a request was due has the generator's own lateness in it. So that is measured
 * apart: from when a request could have gone out (it was due, and a connection was free) until it did.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>

#include "load.h"

#define BUSY 0.95        /* of a core: running, or ready to run and waiting for one */
#define LATE 0.010       /* s; a mean lag of this much at the end, twice that of before, is a schedule that is lost */
#define NOTABLE 1000000u /* ns; lags below this are a wake-up's */

enum { TENTHS = 10 };

static struct {
    double cpu, waited, at; /* s, at the beginning; then what it took */
    Histogram lag;
    double sum[TENTHS];
    long count[TENTHS];
} pace;

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

/* Seconds that this thread was ready to run and had no core (Documentation/scheduler/sched-stats.rst). */
static double waited_seconds(void)
{
    unsigned long long ran = 0, waited = 0;
    FILE *file = fopen("/proc/self/schedstat", "re");
    if (!file) return 0;
    if (fscanf(file, "%llu %llu", &ran, &waited) != 2) waited = 0;
    fclose(file);
    return (double)waited * 1e-9;
}

void pace_begin(double t)
{
    pace.cpu = cpu_seconds();
    pace.waited = waited_seconds();
    pace.at = t;
}

void pace_lag(double could, double t, double part)
{
    int tenth = part < 0 ? 0 : part >= 1 ? TENTHS - 1 : (int)(part * TENTHS);
    double lag = t > could ? t - could : 0;
    histogram_add(&pace.lag, (uint64_t)(lag * 1e9));
    pace.sum[tenth] += lag;
    pace.count[tenth]++;
}

void pace_end(double t)
{
    pace.cpu = cpu_seconds() - pace.cpu;
    pace.waited = waited_seconds() - pace.waited;
    pace.at = t - pace.at;
}

static double mean_lag(int from, int until)
{
    double sum = 0;
    long count = 0;
    for (int i = from; i < until; i++) {
        sum += pace.sum[i];
        count += pace.count[i];
    }
    return count ? sum / (double)count : 0;
}

/* Prints why, if it was the limit. `latency`: their p99 in ns; `*is_void`: latencies of this run are the generator's and not the server's. */
static void print_bottleneck(bool open_loop, double busy, double latency, bool *is_void)
{
    double before = mean_lag(0, TENTHS / 2), last = mean_lag(TENTHS - 1, TENTHS);
    double lag = (double)histogram_quantile(&pace.lag, .99);
    *is_void = false;
    printf("\"bottleneck\": \"");
    if (last >= LATE && last >= 2 * before) {
        *is_void = true;
        printf("the generator fell behind its schedule: by %.1f ms in its first half, by %.1f ms at its end",
               before * 1e3, last * 1e3);
    } else if (busy >= BUSY) {
        *is_void = open_loop;
        printf("the generator was busy: %.0f %% of the time it ran on its core or waited for one", busy * 100);
    } else if (lag >= NOTABLE && lag >= latency / 2) {
        printf("the generator was late: p99 of its own lag is %.1f ms, of the latencies %.1f ms", lag / 1e6,
               latency / 1e6);
    }
    printf("\", ");
}

void pace_report(bool open_loop, const Histogram *latencies)
{
    bool is_void;
    double busy = pace.at > 0 ? (pace.cpu + pace.waited) / pace.at : 0;
    printf("\"generator_cpu\": %.6f, \"generator_waited\": %.6f, \"generator_busy\": %.4f, ", pace.cpu, pace.waited, busy);
    printf("\"lag_us\": {\"mean\": %.1f, \"p99\": %.1f, \"max\": %.1f}, ", histogram_mean(&pace.lag) / 1e3,
           (double)histogram_quantile(&pace.lag, .99) / 1e3, (double)pace.lag.greatest / 1e3);
    print_bottleneck(open_loop, busy, (double)histogram_quantile(latencies, .99), &is_void);
    printf("\"void\": %s, ", is_void ? "true" : "false");
}
