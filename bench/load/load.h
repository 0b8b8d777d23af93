/* What the parts of loadgen share.
 *
 * A Connection leads to a Host and asks there for one Item after another. Who decides what is asked for when is
 * a Driver: `single` (a few items, closed loop or at a rate) or `mix` (a file of requests with their times).
 * Times are seconds on CLOCK_MONOTONIC. One thread; any error ends the run.
 */
#ifndef LOAD_H
#define LOAD_H
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "histogram.h"

enum { HEAD_MAX = 16384, READ_MAX = 256 * 1024, MANY_READ = 64 * 1024, KINDS_MAX = 16, WORDS_MAX = 12 };

/* A request that comes at a time of its own is not due before this, in seconds: connections are made first. */
#define LEAD 1.0

/* DIAL -> [ASK -> ASKED] -> [SHAKE] -> WAIT -> SEND -> HEAD -> BODY -> WAIT; ASK is CONNECT through a proxy. */
typedef enum { CLOSED, DIAL, ASK, ASKED, SHAKE, WAIT, SEND, HEAD, BODY } State;

typedef enum { CHECK_NONE, CHECK_FIRST, CHECK_ALL } Check;

typedef struct {
    char *authority;   /* host:port, for Host and CONNECT */
    char *name;        /* without the port, for SNI and the certificate's name */
    char *connect;     /* the head of CONNECT; NULL without a proxy */
    size_t connect_len;
} Host;

typedef struct {       /* what can be asked for */
    Host *host;
    char *text;        /* the whole request */
    size_t text_len;
    int kind;          /* in the report */
    int status;        /* that has to come; 0: any 2xx */
    bool bodyless;     /* HEAD */
    long long bytes;   /* of the body, -1 if unknown */
    long long first;   /* the first byte of its range, -1 without one */
    char sha256[65];   /* of the body, "" if unknown */
    bool checked;      /* an answer was hashed, or is being hashed */
} Item;

typedef struct Connection {
    int fd;
    SSL *ssl;
    State state;
    bool ready;        /* in the ready list: decrypted bytes may wait where epoll cannot see them */
    bool last;         /* the server said Connection: close */
    bool hashing;
    Host *host;
    Item *item;        /* what is asked for, NULL if nothing */
    size_t sent;       /* bytes of CONNECT or of the request that are out */
    char *head;
    size_t head_len;
    long long length, got, drop; /* of the body, in bytes; -1: not known yet, and never leave */
    bool complete;
    struct {
        enum { SIZE, DATA, DATA_END, TRAILER } at;
        long long left;  /* of this chunk, in bytes */
        char line[24];
        size_t line_len; /* goes on beyond what there is room for */
    } chunk;           /* of a body in chunks */
    char promised[65]; /* sha256 by Docker-Content-Digest, "" without one */
    EVP_MD_CTX *digest;
    double since;      /* what the latency counts from; 0: when the request is sent */
    double first_byte; /* of the answer */
    double shaken;     /* end of the handshake */
    long answers;
    double idle_since;
    int owner;         /* the driver's: which client */
    struct Connection *next; /* the driver's while it is open */
} Connection;

typedef struct {
    void (*start)(double t);
    /* Ask for what is due; returns seconds until something else is. */
    double (*step)(double t);
    /* The answer is complete and the connection is in WAIT, or it is CLOSED. */
    void (*done)(Connection *c, double t);
    /* The server is closing it: while it waited, or with its next item asked for in vain (`c->item`). */
    void (*lost)(Connection *c, double t);
    /* It is connected, in WAIT, and has nothing to ask for. */
    void (*idle)(Connection *c, double t);
    bool (*finished)(double t);
} Driver;

typedef struct {
    char name[24];
    long requests, dropped;
    long long bytes;
    Histogram *latency, *first_byte;
    struct {
        char word[24];
        long count;
    } cache[WORDS_MAX]; /* values of --cache-header */
} Kind;

extern struct Options {
    struct sockaddr_storage address;
    socklen_t address_len;
    bool tls, proxy, fresh, realtime, sources;
    const char *ca, *sni, *ciphers, *cache_header, *mix;
    char headers[8192];
    Check check;
    int connections;
    long count;
    double seconds, rate, timeout;
} opt;

extern struct Run {
    SSL_CTX *ctx;
    int epoll;
    const Driver *driver;
    double start;      /* of the process's work */
    double due;        /* of the first request */
    double progress;   /* when something last happened */
    long issued, done, opened, errors, retried;
    long long bytes;   /* of bodies */
    Kind kinds[KINDS_MAX];
    int kind_count;
    Histogram *latency;
    char error[512], cipher[64], sha256[65];
} run;

extern volatile sig_atomic_t enough; /* SIGTERM: finish what was begun */

/* main.c */
double now(void);
void *need(void *p);
__attribute__((format(printf, 1, 2))) void fail(const char *format, ...);
__attribute__((format(printf, 1, 2), noreturn)) void usage(const char *format, ...);

/* connection.c */
extern unsigned char buffer[READ_MAX];
void connections_prepare(void);
/* NULL after fail(). What it is to ask for is set next: connection_ask. */
Connection *connection_open(Host *host, int owner, double t);
/* Ask now, or once it is connected. `since`: see Connection. */
void connection_ask(Connection *c, Item *item, long long drop, double since);
void connection_close(Connection *c);
/* Bytes, 0 for "not now", -1 after fail() or when the connection is lost. */
ssize_t connection_receive(Connection *c, void *to, size_t room);
/* Go on with it at once, after connection_ask from outside of its own turn. */
void connection_step(Connection *c);
void connections_loop(void);

/* answer.c: true if there may be more to do at once */
bool answer_head(Connection *c);
bool answer_body(Connection *c);

/* items.c */
Host *host_of(const char *authority);
Item *item_new(Host *host, const char *method, const char *path, const char *range);
int kind_of(const char *name);

/* pace.c: what shows that the generator, and not the server, was the limit */
void pace_begin(double t);
/* A request that could have gone out at `could` goes out now; `part`: how far the schedule is, 0 to 1. */
void pace_lag(double could, double t, double part);
void pace_end(double t);
void pace_report(bool open_loop, const Histogram *latencies);

/* report.c */
void report(double t);

extern const Driver closed_loop, open_loop, mix_driver;
/* single.c, mix.c */
void single_add(Item *item);
void mix_read(const char *path);
void single_report(void);

#endif
