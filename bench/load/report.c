/* One JSON object: what was asked, how it came out by kind, and whether the generator was the limit. */
#include <stdio.h>

#include "load.h"

static void print_text(const char *name, const char *text)
{
    printf("\"%s\": \"", name);
    for (; *text; text++) {
        unsigned char b = (unsigned char)*text;
        if (b == '"' || b == '\\')
            printf("\\%c", b);
        else if (b < 32 || b > 126)
            printf("\\u%04x", b);
        else
            putchar(b);
    }
    printf("\", ");
}

static void print_histogram(const char *name, const Histogram *h)
{
    static const struct {
        const char *name;
        double q;
    } shown[] = {{"p50", .5}, {"p90", .9}, {"p99", .99}, {"p999", .999}, {"max", 1}};
    printf("\"%s\": {\"min\": %.3f", name, (double)h->least / 1e3);
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        printf(", \"%s\": %.3f", shown[i].name, (double)histogram_quantile(h, shown[i].q) / 1e3);
    printf("}");
}

static void print_kind(const Kind *kind)
{
    printf("\"%s\": {\"requests\": %ld, \"bytes\": %lld, \"dropped\": %ld, ", kind->name, kind->requests, kind->bytes,
           kind->dropped);
    print_histogram("latency_us", kind->latency);
    printf(", ");
    print_histogram("first_byte_us", kind->first_byte);
    printf(", \"cache\": {");
    for (int i = 0; i < WORDS_MAX && kind->cache[i].count; i++) {
        printf("%s", i ? ", \"" : "\"");
        for (const char *p = kind->cache[i].word; *p; p++) putchar(*p < 32 || *p > 126 || *p == '"' || *p == '\\' ? '?' : *p);
        printf("\": %ld", kind->cache[i].count);
    }
    printf("}}");
}

void report(double t)
{
    bool open = run.driver != &closed_loop;
    pace_end(t);
    printf("{\"loop\": \"%s\", \"requests\": %ld, \"bytes\": %lld, \"seconds\": %.6f, \"errors\": %ld, ",
           open ? "open" : "closed", run.done, run.bytes, t - run.due, run.errors);
    print_text("error", run.error);
    print_text("tls", run.cipher);
    print_text("sha256", run.sha256);
    printf("\"opened\": %ld, \"retried\": %ld, \"realtime\": %s, ", run.opened, run.retried,
           opt.realtime ? "true" : "false");
    pace_report(open, run.latency);
    print_histogram("latency_us", run.latency);
    printf(", \"kinds\": {");
    for (int i = 0; i < run.kind_count; i++) {
        if (i) printf(", ");
        print_kind(&run.kinds[i]);
    }
    printf("}, ");
    single_report();
    printf("}\n");
}
