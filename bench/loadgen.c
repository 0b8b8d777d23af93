/* loadgen: an HTTP/1.1 client that measures servers and takes little of the machine for itself.
 *
 * One thread, edge-triggered epoll, OpenSSL straight on the socket with read-ahead. A connection is
 *
 *     DIAL -> [ASK -> ASKED] -> [SHAKE] -> SEND -> HEAD -> BODY -> SEND ...
 *
 * ASK/ASKED is CONNECT through a proxy, SHAKE the TLS 1.3 handshake (never resumed), and PAUSE stands
 * before SEND when requests are paced by --rate. Whatever is not a complete 2xx answer of the expected
 * length and digest is an error; the first error ends the run with exit status 1. One JSON object goes
 * to standard output; SIGTERM lets it finish what it began and report. Times are seconds on CLOCK_MONOTONIC, latencies are microseconds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* Paced requests begin this long after the start, in seconds: handshakes are no part of their latency. */
#define PACED_LEAD 1.0

enum { HEAD_MAX = 16384, READ_MAX = 256 * 1024, EVENTS = 256, TURN = 64, PER_CLIENT_MAX = 1024 };

typedef enum { IDLE, DIAL, ASK, ASKED, SHAKE, SEND, PAUSE, HEAD, BODY } State;

typedef struct {
    int fd;
    SSL *ssl;
    State state;
    bool ready;           /* in the ready list: decrypted bytes may wait where epoll cannot see them */
    bool last_on_conn;    /* the server said Connection: close */
    int path;             /* which of the --path options comes next */
    size_t sent;          /* bytes of the CONNECT line or of the request that are out */
    char *head;
    size_t head_len;
    long long length, left; /* of the body, in bytes */
    EVP_MD_CTX *digest;
    double since;         /* what the latency is counted from: dialled, sent, or due */
    double due;           /* next send when paced */
    double first, last;   /* first and last byte of this client's first answer, from the start of the run */
    double shaken;        /* end of this client's first handshake, from the start of the run */
    long answers;
} Client;

static struct {
    struct addrinfo *addr;
    const char *sni, *ca, *proxy, *host, *ciphers, *want_digest;
    const char *paths[64];
    int path_count, connections;
    char headers[8192];
    long count;
    long long want_bytes;
    double seconds, rate, timeout;
    bool fresh, realtime;
} opt = {.connections = 1, .count = -1, .want_bytes = -1, .timeout = 30, .seconds = -1};

static struct {
    SSL_CTX *ctx;
    int epoll;
    Client *clients, **ready;
    int ready_count, open;
    char *requests[64], *connect;
    size_t request_len[64], connect_len;
    double start, deadline, progress;
    long issued, done, opened, errors;
    long long body_bytes;
    double *latency;
    size_t latency_room;
    char error[512], cipher[64], digest[65];
} run;

static unsigned char buffer[READ_MAX];
static volatile sig_atomic_t enough; /* SIGTERM: finish what was begun */

static void on_term(int signal_number)
{
    (void)signal_number;
    enough = 1;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *need(void *p)
{
    if (!p) {
        fputs("loadgen: out of memory\n", stderr);
        exit(2);
    }
    return p;
}

static void usage(const char *why)
{
    fprintf(stderr,
            "loadgen: %s\n"
            "usage: loadgen --addr IP:PORT --path PATH [--path PATH ...] --host HOST[:PORT]\n"
            "  --ca FILE --sni NAME      TLS 1.3, verified against FILE; plain HTTP without --ca\n"
            "  --ciphersuites LIST       TLS 1.3 suites in the order of preference\n"
            "  --proxy HOST:PORT         CONNECT there first\n"
            "  --header 'Name: value'    repeatable\n"
            "  --connections N           at once (1)\n"
            "  --fresh                   a new connection for every request\n"
            "  --count N | --seconds S   requests in all, or how long to start new ones\n"
            "  --rate R                  requests a second in all; latency counts from the due time\n"
            "  --bytes N --sha256 HEX    what every body must be\n"
            "  --timeout S               without any progress (30)\n"
            "  --realtime                SCHED_FIFO where allowed: latency is then the server's, not the scheduler's\n",
            why);
    exit(2);
}

/* Keeps the first reason; any error ends the run. */
__attribute__((format(printf, 1, 2))) static void fail(const char *format, ...)
{
    if (run.errors++ == 0) {
        va_list args;
        va_start(args, format);
        vsnprintf(run.error, sizeof run.error, format, args);
        va_end(args);
    }
}

static void fail_tls(Client *c, const char *what, int result)
{
    int saved = errno;
    int kind = SSL_get_error(c->ssl, result);
    long verify = SSL_get_verify_result(c->ssl);
    char text[200];
    ERR_error_string_n(ERR_peek_last_error(), text, sizeof text);
    fail("%s: SSL error %d, %s, errno %s, verify: %s", what, kind, text, strerror(saved),
         X509_verify_cert_error_string(verify));
}

static bool exhausted(double t)
{
    return enough || (opt.count >= 0 && run.issued >= opt.count) || (opt.seconds >= 0 && t >= run.deadline);
}

static void close_client(Client *c)
{
    if (c->ssl) {
        if (c->state >= SEND) SSL_shutdown(c->ssl); /* close_notify, as Go's tls.Conn.Close */
        SSL_free(c->ssl);
        c->ssl = NULL;
    }
    ERR_clear_error();
    if (c->fd >= 0) {
        close(c->fd);
        run.open--;
    }
    c->fd = -1;
    c->state = IDLE;
}

static void open_client(Client *c, double t)
{
    int one = 1;
    c->fd = socket(opt.addr->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        fail("socket: %s", strerror(errno));
        return;
    }
    run.open++;
    run.opened++;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, opt.addr->ai_addr, opt.addr->ai_addrlen) < 0 && errno != EINPROGRESS) {
        fail("connect: %s", strerror(errno));
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(run.epoll, EPOLL_CTL_ADD, c->fd, &event) < 0) {
        fail("epoll_ctl: %s", strerror(errno));
        return;
    }
    c->state = DIAL;
    c->sent = 0;
    c->head_len = 0;
    c->last_on_conn = false;
    c->since = t;
}

/* Returns bytes, 0 for "not now", -1 after fail(). A closed connection is a failure: an answer is always due. */
static ssize_t receive(Client *c, void *to, size_t room)
{
    if (c->ssl && c->state > SHAKE) {
        int n = SSL_read(c->ssl, to, (int)room);
        if (n > 0) return n;
        if (SSL_get_error(c->ssl, n) == SSL_ERROR_WANT_READ) return 0;
        fail_tls(c, c->state == HEAD ? "read of the head" : "read of the body", n);
        return -1;
    }
    ssize_t n = recv(c->fd, to, room, 0);
    if (n > 0) return n;
    if (n < 0 && errno == EAGAIN) return 0;
    fail("recv: %s", n == 0 ? "closed by the server" : strerror(errno));
    return -1;
}

/* Returns 1 when all is out, 0 for "not now", -1 after fail(). */
static int transmit(Client *c, const char *data, size_t size)
{
    while (c->sent < size) {
        ssize_t n;
        if (c->ssl && c->state > SHAKE) {
            n = SSL_write(c->ssl, data + c->sent, (int)(size - c->sent));
            if (n <= 0) {
                int kind = SSL_get_error(c->ssl, (int)n);
                if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE) return 0;
                fail_tls(c, "write", (int)n);
                return -1;
            }
        } else {
            n = send(c->fd, data + c->sent, size - c->sent, MSG_NOSIGNAL);
            if (n < 0 && errno == EAGAIN) return 0;
            if (n < 0) {
                fail("send: %s", strerror(errno));
                return -1;
            }
        }
        c->sent += (size_t)n;
    }
    c->sent = 0;
    return 1;
}

static void begin_tls(Client *c)
{
    c->ssl = need(SSL_new(run.ctx));
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_tlsext_host_name(c->ssl, opt.sni);
    SSL_set1_host(c->ssl, opt.sni);
    c->state = SHAKE;
}

static bool dialled(Client *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        fail("connect: %s", strerror(error));
        return false;
    }
    if (opt.proxy)
        c->state = ASK;
    else if (opt.ca)
        begin_tls(c);
    else
        c->state = SEND;
    return true;
}

/* The answer to CONNECT; a TLS server never speaks first, so nothing follows the head. */
static bool connected(Client *c)
{
    ssize_t n = receive(c, c->head + c->head_len, HEAD_MAX - 1 - c->head_len);
    if (n <= 0) return false;
    c->head_len += (size_t)n;
    c->head[c->head_len] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        if (c->head_len >= HEAD_MAX - 1) fail("CONNECT: head too long");
        return c->head_len < HEAD_MAX - 1;
    }
    if (strncmp(c->head, "HTTP/1.", 7) != 0 || strncmp(c->head + 8, " 200", 4) != 0 ||
        end + 4 != c->head + c->head_len) {
        fail("CONNECT: %.80s", c->head);
        return false;
    }
    c->head_len = 0;
    if (opt.ca)
        begin_tls(c);
    else
        c->state = SEND;
    return true;
}

static bool shaken(Client *c)
{
    int n = SSL_connect(c->ssl);
    if (n != 1) {
        int kind = SSL_get_error(c->ssl, n);
        if (kind != SSL_ERROR_WANT_READ && kind != SSL_ERROR_WANT_WRITE) fail_tls(c, "handshake", n);
        return false;
    }
    if (!run.cipher[0])
        snprintf(run.cipher, sizeof run.cipher, "%s %s", SSL_get_version(c->ssl), SSL_get_cipher_name(c->ssl));
    if (c->shaken == 0) c->shaken = now() - run.start;
    c->state = SEND;
    return true;
}

static bool send_request(Client *c)
{
    if (c->sent == 0) {
        double t = now();
        if (opt.rate > 0) {
            if (t < c->due) {
                c->state = PAUSE;
                return false;
            }
            c->since = c->due;
        } else if (!opt.fresh) {
            c->since = t;
        }
    }
    if (transmit(c, run.requests[c->path], run.request_len[c->path]) <= 0) return false;
    c->path = (c->path + 1) % opt.path_count;
    c->head_len = 0;
    c->state = HEAD;
    return false; /* the answer cannot be there yet: wait for its edge rather than read in vain */
}

static const char *field(const char *head, const char *name)
{
    size_t size = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, size) == 0 && line[size] == ':') return line + size + 1 + strspn(line + size + 1, " ");
    }
    return NULL;
}

/* Head is complete and zero-terminated after its blank line. */
static bool parse_head(Client *c)
{
    const char *length = field(c->head, "Content-Length"), *connection = field(c->head, "Connection");
    if (strncmp(c->head, "HTTP/1.1 2", 10) != 0) {
        fail("answer: %.300s", c->head);
        return false;
    }
    if (!length || field(c->head, "Transfer-Encoding")) {
        fail("answer without Content-Length: %.300s", c->head);
        return false;
    }
    c->length = c->left = atoll(length);
    if (opt.want_bytes >= 0 && c->length != opt.want_bytes) {
        fail("Content-Length is %lld, expected %lld", c->length, opt.want_bytes);
        return false;
    }
    c->last_on_conn = connection && strncasecmp(connection, "close", 5) == 0;
    if (c->digest) EVP_DigestInit_ex(c->digest, EVP_sha256(), NULL);
    c->state = BODY;
    return true;
}

static bool take_body(Client *c, const void *data, size_t size)
{
    if ((long long)size > c->left) {
        fail("%lld bytes more than Content-Length", (long long)size - c->left);
        return false;
    }
    c->left -= (long long)size;
    if (c->digest) EVP_DigestUpdate(c->digest, data, size);
    return true;
}

static bool read_head(Client *c)
{
    ssize_t n = receive(c, buffer, sizeof buffer);
    if (n <= 0) return false;
    if (c->head_len == 0 && c->answers == 0) c->first = now() - run.start;
    size_t take = (size_t)n < HEAD_MAX - 1 - c->head_len ? (size_t)n : HEAD_MAX - 1 - c->head_len;
    memcpy(c->head + c->head_len, buffer, take);
    char *end = memmem(c->head, c->head_len + take, "\r\n\r\n", 4);
    if (!end) {
        c->head_len += take;
        if (c->head_len >= HEAD_MAX - 1) fail("head too long");
        return c->head_len < HEAD_MAX - 1;
    }
    size_t used = (size_t)(end + 4 - c->head) - c->head_len;
    end[4] = 0;
    return parse_head(c) && take_body(c, buffer + used, (size_t)n - used);
}

static bool check_digest(Client *c)
{
    unsigned char raw[32];
    EVP_DigestFinal_ex(c->digest, raw, NULL);
    for (int i = 0; i < 32; i++) sprintf(run.digest + 2 * i, "%02x", raw[i]);
    if (strcmp(run.digest, opt.want_digest) == 0) return true;
    fail("body has sha256 %s, expected %s", run.digest, opt.want_digest);
    return false;
}

/* The answer is complete: note it, and start what comes next on this connection. */
static bool finish(Client *c)
{
    double t = now();
    if (c->digest && !check_digest(c)) return false;
    if (run.latency_room == (size_t)run.done) {
        run.latency_room = run.latency_room ? 2 * run.latency_room : 65536;
        run.latency = need(realloc(run.latency, run.latency_room * sizeof *run.latency));
    }
    run.latency[run.done++] = t - c->since;
    run.body_bytes += c->length;
    if (c->answers++ == 0) c->last = t - run.start;
    if (opt.rate > 0) c->due += opt.connections / opt.rate;
    if (exhausted(t)) {
        close_client(c);
        return false;
    }
    run.issued++;
    c->state = SEND;
    if (opt.fresh || c->last_on_conn) {
        close_client(c);
        open_client(c, t);
        return false;
    }
    return true;
}

static bool read_body(Client *c)
{
    if (c->left > 0) {
        ssize_t n = receive(c, buffer, sizeof buffer);
        if (n <= 0 || !take_body(c, buffer, (size_t)n)) return false;
    }
    return c->left > 0 || finish(c);
}

static void step(Client *c, uint32_t events)
{
    for (int turn = 0; turn < TURN; turn++) {
        bool more = false;
        switch (c->state) {
        case DIAL: more = (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) && dialled(c); break;
        case ASK:
            if (transmit(c, run.connect, run.connect_len) > 0) c->state = ASKED;
            break;
        case ASKED: more = connected(c); break;
        case SHAKE: more = shaken(c); break;
        case SEND: more = send_request(c); break;
        case HEAD: more = read_head(c); break;
        case BODY: more = read_body(c); break;
        case PAUSE:
        case IDLE: break;
        }
        if (!more) return;
    }
    if (!c->ready) { /* one connection must not starve the others */
        c->ready = true;
        run.ready[run.ready_count++] = c;
    }
}

static void step_ready(void)
{
    int count = run.ready_count;
    Client *batch[count > 0 ? count : 1];
    memcpy(batch, run.ready, (size_t)count * sizeof *batch);
    run.ready_count = 0;
    for (int i = 0; i < count; i++) {
        batch[i]->ready = false;
        step(batch[i], 0);
    }
}

/* Wakes the paced clients that are due; returns how long epoll may wait, in seconds. */
static double step_paced(double t)
{
    double wait = 1;
    if (opt.rate <= 0) return wait;
    for (int i = 0; i < opt.connections; i++) {
        Client *c = &run.clients[i];
        if (c->state != PAUSE) continue;
        if (c->due <= t) {
            c->state = SEND;
            step(c, 0);
        } else if (c->due - t < wait) {
            wait = c->due - t;
        }
    }
    return wait;
}

static void loop(void)
{
    struct epoll_event events[EVENTS];
    run.progress = run.start;
    while (run.open > 0 && run.errors == 0) {
        double t = now();
        double wait = step_paced(t);
        if (run.ready_count > 0) wait = 0;
        struct timespec timeout = {.tv_sec = (time_t)wait, .tv_nsec = (long)((wait - (time_t)wait) * 1e9)};
        int n = epoll_pwait2(run.epoll, events, EVENTS, &timeout, NULL);
        if (n < 0 && errno != EINTR) fail("epoll: %s", strerror(errno));
        if (n > 0 || run.ready_count > 0)
            run.progress = t;
        else if (t - run.progress > opt.timeout)
            fail("no progress for %.0f s", opt.timeout);
        for (int i = 0; i < n && run.errors == 0; i++) step(events[i].data.ptr, events[i].events);
        if (run.ready_count > 0) step_ready();
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(double q)
{
    return run.done ? run.latency[(size_t)(q * (double)(run.done - 1) + 0.5)] * 1e6 : 0;
}

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

static void report(double seconds)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    qsort(run.latency, (size_t)run.done, sizeof *run.latency, by_value);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
    printf("{\"requests\": %ld, \"errors\": %ld, \"bytes\": %lld, \"seconds\": %.6f, ", run.done, run.errors,
           run.body_bytes, seconds);
    print_text("error", run.error);
    print_text("tls", run.cipher);
    print_text("sha256", run.digest);
    printf("\"opened\": %ld, \"generator_cpu\": %.6f, \"realtime\": %s, ", run.opened, cpu,
           opt.realtime ? "true" : "false");
    printf("\"latency_us\": {\"min\": %.1f, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}, ",
           quantile(0), quantile(.5), quantile(.9), quantile(.99), quantile(.999), quantile(1));
    printf("\"clients\": [");
    for (int i = 0; i < opt.connections && i < PER_CLIENT_MAX; i++)
        printf("%s{\"handshake\": %.6f, \"first_byte\": %.6f, \"last_byte\": %.6f}", i ? ", " : "",
               run.clients[i].shaken, run.clients[i].first, run.clients[i].last);
    printf("]}\n");
}

static void parse_address(char *text)
{
    char *colon = strrchr(text, ':');
    if (!colon) usage("--addr needs IP:PORT");
    *colon = 0;
    if (text[0] == '[') {
        text++;
        text[strcspn(text, "]")] = 0;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    if (getaddrinfo(text, colon + 1, &hints, &opt.addr) != 0) usage("--addr is not IP:PORT");
}

static void add_header(const char *line)
{
    size_t used = strlen(opt.headers);
    if (snprintf(opt.headers + used, sizeof opt.headers - used, "%s\r\n", line) >= (int)(sizeof opt.headers - used))
        usage("too many headers");
}

static void parse_options(int argc, char **argv)
{
    enum { ADDR = 1, PROXY, SNI, CA, SUITES, PATH, HOST, HEADER, CONNS, COUNT, SECONDS, RATE, BYTES, SHA, TIMEOUT };
    int fresh = 0, realtime = 0, option;
    const struct option names[] = {
        {"addr", 1, 0, ADDR},        {"proxy", 1, 0, PROXY},   {"sni", 1, 0, SNI},
        {"ca", 1, 0, CA},            {"ciphersuites", 1, 0, SUITES}, {"path", 1, 0, PATH},
        {"host", 1, 0, HOST},        {"header", 1, 0, HEADER}, {"connections", 1, 0, CONNS},
        {"count", 1, 0, COUNT},      {"seconds", 1, 0, SECONDS}, {"rate", 1, 0, RATE},
        {"bytes", 1, 0, BYTES},      {"sha256", 1, 0, SHA},    {"timeout", 1, 0, TIMEOUT},
        {"fresh", 0, &fresh, 1},     {"realtime", 0, &realtime, 1}, {0, 0, 0, 0},
    };
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case ADDR: parse_address(optarg); break;
        case PROXY: opt.proxy = optarg; break;
        case SNI: opt.sni = optarg; break;
        case CA: opt.ca = optarg; break;
        case SUITES: opt.ciphers = optarg; break;
        case PATH:
            if (opt.path_count == 64) usage("at most 64 paths");
            opt.paths[opt.path_count++] = optarg;
            break;
        case HOST: opt.host = optarg; break;
        case HEADER: add_header(optarg); break;
        case CONNS: opt.connections = atoi(optarg); break;
        case COUNT: opt.count = atol(optarg); break;
        case SECONDS: opt.seconds = atof(optarg); break;
        case RATE: opt.rate = atof(optarg); break;
        case BYTES: opt.want_bytes = atoll(optarg); break;
        case SHA: opt.want_digest = optarg; break;
        case TIMEOUT: opt.timeout = atof(optarg); break;
        case 0: break;
        default: usage("bad option");
        }
    }
    opt.fresh = fresh;
    opt.realtime = realtime;
    if (!opt.addr || !opt.host || opt.path_count == 0) usage("--addr, --host and --path are needed");
    if (opt.ca && !opt.sni) usage("--ca needs --sni");
    if (opt.connections < 1 || (opt.count < 0) == (opt.seconds < 0)) usage("give --count or --seconds");
}

static void prepare_tls(void)
{
    run.ctx = need(SSL_CTX_new(TLS_client_method()));
    SSL_CTX_set_min_proto_version(run.ctx, TLS1_3_VERSION);
    SSL_CTX_set_verify(run.ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(run.ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_read_ahead(run.ctx, 1); /* many records with one read(2) instead of two calls for each */
    if (!opt.fresh && opt.connections <= 16) SSL_CTX_set_default_read_buffer_len(run.ctx, READ_MAX);
    if (opt.ciphers && SSL_CTX_set_ciphersuites(run.ctx, opt.ciphers) != 1) usage("unknown ciphersuite");
    if (SSL_CTX_load_verify_file(run.ctx, opt.ca) != 1) usage("cannot read the CA file");
}

static void prepare(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    struct sched_param priority = {.sched_priority = 1};
    if (opt.realtime && sched_setscheduler(0, SCHED_FIFO, &priority) != 0) opt.realtime = false;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_term);
    if (opt.ca) prepare_tls();
    for (int i = 0; i < opt.path_count; i++) {
        int n = asprintf(&run.requests[i], "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", opt.paths[i], opt.host, opt.headers);
        run.request_len[i] = (size_t)n;
    }
    if (opt.proxy) {
        int n = asprintf(&run.connect, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: Go-http-client/1.1\r\n\r\n",
                         opt.proxy, opt.proxy);
        run.connect_len = (size_t)n;
    }
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    run.clients = need(calloc((size_t)opt.connections, sizeof *run.clients));
    run.ready = need(calloc((size_t)opt.connections, sizeof(Client *)));
    for (int i = 0; i < opt.connections; i++) {
        run.clients[i].fd = -1;
        run.clients[i].head = need(malloc(HEAD_MAX));
        run.clients[i].path = i % opt.path_count;
        if (opt.want_digest) run.clients[i].digest = need(EVP_MD_CTX_new());
    }
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    prepare();
    run.start = now();
    double first_due = run.start + (opt.rate > 0 ? PACED_LEAD : 0);
    run.deadline = first_due + opt.seconds;
    for (int i = 0; i < opt.connections && !exhausted(run.start) && run.errors == 0; i++) {
        run.issued++;
        run.clients[i].due = first_due + (opt.rate > 0 ? i / opt.rate : 0);
        open_client(&run.clients[i], run.start);
    }
    loop();
    if (run.errors == 0 && !enough && opt.count >= 0 && run.done != opt.count)
        fail("%ld answers for %ld requests", run.done, opt.count);
    report(now() - run.start);
    return run.errors ? 1 : 0;
}
