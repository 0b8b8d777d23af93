/* loadgen: an HTTP/1.1 client that measures servers and takes little of the machine for itself.
 *
 * Whatever is not the complete answer of the expected status, length and digest is an error; the first error ends
 * the run with exit status 1. One JSON object goes to standard output. SIGTERM lets it finish what it began and
 * report. Latencies are microseconds. With --rate or --mix the loop is open: each request has its time, and its
 * latency counts from then, so that a server that pauses is seen by all whom it keeps waiting. Otherwise it is
 * closed: a connection asks when it has its answer. The report says which, and whether the generator was the limit.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include "load.h"

struct Options opt = {.connections = 1, .count = -1, .timeout = 30, .seconds = -1, .check = CHECK_FIRST};
struct Run run;
volatile sig_atomic_t enough;

/* What --path, --range, --bytes and --sha256 say. */
static struct {
    const char *path, *range, *sha256;
    long long bytes;
} *paths;
static int path_count;
static const char *authority;

static void on_term(int signal_number)
{
    (void)signal_number;
    enough = 1;
}

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void *need(void *p)
{
    if (!p) {
        fputs("loadgen: out of memory\n", stderr);
        exit(2);
    }
    return p;
}

void usage(const char *format, ...)
{
    va_list args;
    fputs("loadgen: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs("\nusage: loadgen --addr IP:PORT (--host HOST[:PORT] --path PATH ... | --mix FILE)\n"
          "  --ca FILE                 TLS 1.3, verified against FILE; plain HTTP without\n"
          "  --sni NAME                the host's name in the handshake, if not that of --host\n"
          "  --ciphersuites LIST       TLS 1.3 suites in the order of preference\n"
          "  --connect                 --addr is a proxy: CONNECT to the host first\n"
          "  --header 'Name: value'    repeatable\n"
          "  --path PATH               repeatable; these belong to the --path before them:\n"
          "    --range bytes=A-B --bytes N --sha256 HEX   what to ask for, and what the body must be\n"
          "  --check first|all|none    of whose bodies the digest is looked at: the first of each item's (default)\n"
          "  --connections N           at once (1)\n"
          "  --fresh                   a new connection for every request\n"
          "  --count N | --seconds S   requests in all, or how long to start new ones\n"
          "  --rate R                  requests a second in all: an open loop, latency from the due time\n"
          "  --mix FILE                what bench.mix makes of a mix file: an open loop\n"
          "  --sources                 each client from a loopback address of its own, 127.1.x.y\n"
          "  --cache-header NAME       count the values of this field\n"
          "  --timeout S               without any progress (30)\n"
          "  --realtime                SCHED_FIFO where allowed: latency is then the server's, not the scheduler's\n",
          stderr);
    exit(2);
}

/* Keeps the first reason; any error ends the run. */
void fail(const char *format, ...)
{
    if (run.errors++ == 0) {
        va_list args;
        va_start(args, format);
        vsnprintf(run.error, sizeof run.error, format, args);
        va_end(args);
    }
}

static void parse_address(char *text)
{
    char *colon = strrchr(text, ':');
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
    if (!colon) usage("--addr needs IP:PORT");
    *colon = 0;
    if (text[0] == '[') {
        text++;
        text[strcspn(text, "]")] = 0;
    }
    if (getaddrinfo(text, colon + 1, &hints, &found) != 0) usage("--addr is not IP:PORT");
    memcpy(&opt.address, found->ai_addr, found->ai_addrlen);
    opt.address_len = found->ai_addrlen;
    freeaddrinfo(found);
}

static void add_header(const char *line)
{
    size_t used = strlen(opt.headers);
    if (snprintf(opt.headers + used, sizeof opt.headers - used, "%s\r\n", line) >= (int)(sizeof opt.headers - used))
        usage("too many headers");
}

static void add_path(const char *path)
{
    paths = need(realloc(paths, (size_t)(path_count + 1) * sizeof *paths));
    paths[path_count].path = path;
    paths[path_count].range = paths[path_count].sha256 = NULL;
    paths[path_count++].bytes = -1;
}

static Check check_of(const char *name)
{
    if (strcmp(name, "first") == 0) return CHECK_FIRST;
    if (strcmp(name, "all") == 0) return CHECK_ALL;
    if (strcmp(name, "none") != 0) usage("--check is first, all or none");
    return CHECK_NONE;
}

enum { ADDR = 1, SNI, CA, SUITES, PATH, RANGE, BYTES, SHA, HOST, HEADER, CONNS, COUNT, SECONDS, RATE, TIMEOUT, CHECK,
       MIX, WORDS };

static void take_option(int option, char *value)
{
    if ((option == RANGE || option == BYTES || option == SHA) && path_count == 0) usage("give --path first");
    switch (option) {
    case ADDR: parse_address(value); break;
    case SNI: opt.sni = value; break;
    case CA: opt.ca = value; break;
    case SUITES: opt.ciphers = value; break;
    case PATH: add_path(value); break;
    case RANGE: paths[path_count - 1].range = value; break;
    case BYTES: paths[path_count - 1].bytes = atoll(value); break;
    case SHA: paths[path_count - 1].sha256 = value; break;
    case HOST: authority = value; break;
    case HEADER: add_header(value); break;
    case CONNS: opt.connections = atoi(value); break;
    case COUNT: opt.count = atol(value); break;
    case SECONDS: opt.seconds = atof(value); break;
    case RATE: opt.rate = atof(value); break;
    case TIMEOUT: opt.timeout = atof(value); break;
    case CHECK: opt.check = check_of(value); break;
    case MIX: opt.mix = value; break;
    case WORDS: opt.cache_header = value; break;
    case 0: break;
    default: usage("bad option");
    }
}

static void parse_options(int argc, char **argv)
{
    int fresh = 0, realtime = 0, proxy = 0, sources = 0, option;
    const struct option names[] = {
        {"addr", 1, 0, ADDR},        {"sni", 1, 0, SNI},             {"ca", 1, 0, CA},
        {"ciphersuites", 1, 0, SUITES}, {"path", 1, 0, PATH},        {"range", 1, 0, RANGE},
        {"bytes", 1, 0, BYTES},      {"sha256", 1, 0, SHA},          {"host", 1, 0, HOST},
        {"header", 1, 0, HEADER},    {"connections", 1, 0, CONNS},   {"count", 1, 0, COUNT},
        {"seconds", 1, 0, SECONDS},  {"rate", 1, 0, RATE},           {"timeout", 1, 0, TIMEOUT},
        {"check", 1, 0, CHECK},      {"mix", 1, 0, MIX},             {"cache-header", 1, 0, WORDS},
        {"fresh", 0, &fresh, 1},     {"realtime", 0, &realtime, 1},  {"connect", 0, &proxy, 1},
        {"sources", 0, &sources, 1}, {0, 0, 0, 0},
    };
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) take_option(option, optarg);
    opt.fresh = fresh;
    opt.realtime = realtime;
    opt.proxy = proxy;
    opt.sources = sources;
    opt.tls = opt.ca != NULL;
    if (!opt.address_len) usage("--addr is needed");
    if (opt.sources && opt.address.ss_family != AF_INET) usage("--sources needs an IPv4 address");
    if (opt.mix) return;
    if (!authority || path_count == 0) usage("--host and --path are needed, or --mix");
    if (opt.connections < 1 || (opt.count < 0) == (opt.seconds < 0)) usage("give --count or --seconds");
}

static void prepare_system(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    struct sched_param priority = {.sched_priority = 1};
    if (opt.realtime && sched_setscheduler(0, SCHED_FIFO, &priority) != 0) opt.realtime = false;
    prctl(PR_SET_TIMERSLACK, 1000); /* ns: a wake-up on time is what the schedule is about */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_term);
}

static void prepare_load(void)
{
    run.latency = need(calloc(1, sizeof *run.latency));
    if (opt.mix) {
        mix_read(opt.mix);
        run.driver = &mix_driver;
        return;
    }
    run.driver = opt.rate > 0 ? &open_loop : &closed_loop;
    Host *host = host_of(authority);
    for (int i = 0; i < path_count; i++) {
        Item *item = item_new(host, "GET", paths[i].path, paths[i].range);
        item->kind = kind_of("request");
        item->bytes = paths[i].bytes;
        if (paths[i].sha256) snprintf(item->sha256, sizeof item->sha256, "%s", paths[i].sha256);
        single_add(item);
    }
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    prepare_system();
    prepare_load();
    connections_prepare();
    run.start = now();
    run.driver->start(run.start);
    connections_loop();
    if (run.errors == 0 && !enough && !opt.mix && opt.count >= 0 && run.done != opt.count)
        fail("%ld answers for %ld requests", run.done, opt.count);
    report(now());
    return run.errors ? 1 : 0;
}
