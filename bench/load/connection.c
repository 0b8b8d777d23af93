/* Connections: TCP, CONNECT, TLS, requests out; edge-triggered epoll, OpenSSL straight on the socket. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

enum { EVENTS = 256, TURN = 64 };

unsigned char buffer[READ_MAX];
static Connection *spare, **ready;
static int ready_count, ready_room;

static void fail_tls(Connection *c, const char *what, int result)
{
    int saved = errno;
    int kind = SSL_get_error(c->ssl, result);
    long verify = SSL_get_verify_result(c->ssl);
    char text[200];
    ERR_error_string_n(ERR_peek_last_error(), text, sizeof text);
    fail("%s: SSL error %d, %s, errno %s, verify: %s", what, kind, text, strerror(saved),
         X509_verify_cert_error_string(verify));
}

static Connection *take_spare(void)
{
    Connection *c = spare;
    if (c) {
        spare = c->next;
        return c;
    }
    c = need(calloc(1, sizeof *c));
    c->head = need(malloc(HEAD_MAX));
    return c;
}

/* Each owner comes from a loopback address of its own, as the nodes of a cluster have theirs. */
static bool bind_source(int fd, int owner)
{
    struct sockaddr_in from = {.sin_family = AF_INET};
    int one = 1;
    from.sin_addr.s_addr = htonl(0x7f010001u + (uint32_t)(owner / 250 * 256 + owner % 250));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    return bind(fd, (struct sockaddr *)&from, sizeof from) == 0;
}

Connection *connection_open(Host *host, int owner, double t)
{
    int one = 1;
    int fd = socket(opt.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        fail("socket: %s", strerror(errno));
        return NULL;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (opt.sources && !bind_source(fd, owner)) fail("bind: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&opt.address, opt.address_len) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    Connection *c = take_spare();
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(run.epoll, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl: %s", strerror(errno));
    run.opened++;
    c->fd = fd;
    c->host = host;
    c->owner = owner;
    c->item = NULL;
    c->state = DIAL;
    c->sent = c->head_len = 0;
    c->last = c->hashing = false;
    c->answers = 0;
    c->shaken = 0;
    c->since = t;
    c->next = NULL;
    return c;
}

void connection_ask(Connection *c, Item *item, long long drop, double since)
{
    c->item = item;
    c->drop = drop;
    c->since = since;
    c->head_len = 0;
    if (c->state == WAIT) c->state = SEND;
}

void connection_close(Connection *c)
{
    if (c->ssl) {
        if (c->state >= WAIT) SSL_shutdown(c->ssl); /* close_notify, as Go's tls.Conn.Close */
        SSL_free(c->ssl);
        c->ssl = NULL;
    }
    ERR_clear_error();
    close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
    c->next = spare;
    spare = c;
}

/* An end between answers is the server's right; a request that crosses it is asked again (RFC 9112, 9.3.1). */
static bool lose(Connection *c)
{
    if (c->item && (c->answers == 0 || c->head_len > 0 || c->state == BODY)) return false;
    run.driver->lost(c, now());
    connection_close(c);
    return true;
}

static ssize_t receive_tls(Connection *c, void *to, size_t room)
{
    errno = 0;
    int n = SSL_read(c->ssl, to, (int)room);
    if (n > 0) return n;
    int kind = SSL_get_error(c->ssl, n);
    if (kind == SSL_ERROR_WANT_READ) return 0;
    bool ended = kind == SSL_ERROR_ZERO_RETURN || (kind == SSL_ERROR_SYSCALL && (errno == 0 || errno == ECONNRESET)) ||
                 ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
    if (ended && lose(c)) return -1;
    fail_tls(c, c->state == HEAD ? "read of the head" : "read of the body", n);
    return -1;
}

ssize_t connection_receive(Connection *c, void *to, size_t room)
{
    if (c->ssl && c->state > SHAKE) return receive_tls(c, to, room);
    ssize_t n = recv(c->fd, to, room, 0);
    if (n > 0) return n;
    if (n < 0 && errno == EAGAIN) return 0;
    if ((n == 0 || errno == ECONNRESET) && c->state > SHAKE && lose(c)) return -1;
    fail("recv: %s", n == 0 ? "closed by the server" : strerror(errno));
    return -1;
}

/* Returns 1 when all is out, 0 for "not now", -1 after fail() or when the connection is lost. */
static int transmit(Connection *c, const char *data, size_t size)
{
    while (c->sent < size) {
        ssize_t n;
        if (c->ssl && c->state > SHAKE) {
            n = SSL_write(c->ssl, data + c->sent, (int)(size - c->sent));
            if (n <= 0) {
                int kind = SSL_get_error(c->ssl, (int)n);
                if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE) return 0;
                if (kind == SSL_ERROR_SYSCALL && (errno == EPIPE || errno == ECONNRESET) && lose(c)) return -1;
                fail_tls(c, "write", (int)n);
                return -1;
            }
        } else {
            n = send(c->fd, data + c->sent, size - c->sent, MSG_NOSIGNAL);
            if (n < 0 && errno == EAGAIN) return 0;
            if (n < 0) {
                bool gone = errno == EPIPE || errno == ECONNRESET;
                if (!(gone && c->state == SEND && lose(c))) fail("send: %s", strerror(errno));
                return -1;
            }
        }
        c->sent += (size_t)n;
    }
    c->sent = 0;
    return 1;
}

static bool connected(Connection *c)
{
    c->state = c->item ? SEND : WAIT;
    if (!c->item) run.driver->idle(c, now());
    return c->state == SEND;
}

static bool begin_tls(Connection *c)
{
    if (!opt.tls) return connected(c);
    c->ssl = need(SSL_new(run.ctx));
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_tlsext_host_name(c->ssl, c->host->name);
    SSL_set1_host(c->ssl, c->host->name);
    c->state = SHAKE;
    return true;
}

static bool dialled(Connection *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        fail("connect: %s", strerror(error));
        return false;
    }
    if (!c->host->connect) return begin_tls(c);
    c->state = ASK;
    return true;
}

/* The answer to CONNECT; a server never speaks first, so nothing follows the head. */
static bool admitted(Connection *c)
{
    ssize_t n = connection_receive(c, c->head + c->head_len, HEAD_MAX - 1 - c->head_len);
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
        fail("CONNECT %s: %.80s", c->host->authority, c->head);
        return false;
    }
    c->head_len = 0;
    return begin_tls(c);
}

static bool shaken(Connection *c)
{
    int n = SSL_connect(c->ssl);
    if (n != 1) {
        int kind = SSL_get_error(c->ssl, n);
        if (kind != SSL_ERROR_WANT_READ && kind != SSL_ERROR_WANT_WRITE) fail_tls(c, "handshake", n);
        return false;
    }
    if (!run.cipher[0])
        snprintf(run.cipher, sizeof run.cipher, "%s %s", SSL_get_version(c->ssl), SSL_get_cipher_name(c->ssl));
    c->shaken = now();
    return connected(c);
}

static bool send_request(Connection *c)
{
    if (c->sent == 0 && c->since == 0) c->since = now();
    if (transmit(c, c->item->text, c->item->text_len) <= 0) return false;
    c->state = HEAD;
    return false; /* the answer cannot be there yet: wait for its edge rather than read in vain */
}

/* Nothing may come now but tickets of TLS and the end. */
static void waiting(Connection *c)
{
    ssize_t n = connection_receive(c, buffer, sizeof buffer);
    if (n > 0) fail("an answer that nobody asked for: %.80s", buffer);
}

static void step(Connection *c, uint32_t events)
{
    for (int turn = 0; turn < TURN; turn++) {
        bool more = false;
        switch (c->state) {
        case DIAL: more = (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) && dialled(c); break;
        case ASK:
            if (transmit(c, c->host->connect, c->host->connect_len) > 0) c->state = ASKED;
            break;
        case ASKED: more = admitted(c); break;
        case SHAKE: more = shaken(c); break;
        case WAIT: waiting(c); break;
        case SEND: more = send_request(c); break;
        case HEAD: more = answer_head(c); break;
        case BODY: more = answer_body(c); break;
        case CLOSED: break;
        }
        if (!more || run.errors) return;
    }
    if (c->ready) return;
    if (ready_count == ready_room) {
        ready_room = ready_room ? 2 * ready_room : 64;
        ready = need(realloc(ready, (size_t)ready_room * sizeof *ready));
    }
    c->ready = true; /* one connection must not starve the others */
    ready[ready_count++] = c;
}

void connection_step(Connection *c)
{
    step(c, 0);
}

static void step_ready(void)
{
    int count = ready_count;
    Connection *batch[count > 0 ? count : 1];
    memcpy(batch, ready, (size_t)count * sizeof *batch);
    ready_count = 0;
    for (int i = 0; i < count && run.errors == 0; i++) {
        batch[i]->ready = false;
        step(batch[i], 0);
    }
}

void connections_prepare(void)
{
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!opt.tls) return;
    run.ctx = need(SSL_CTX_new(TLS_client_method()));
    SSL_CTX_set_min_proto_version(run.ctx, TLS1_3_VERSION);
    SSL_CTX_set_verify(run.ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(run.ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_read_ahead(run.ctx, 1); /* many records with one read(2) instead of two calls for each */
    if (opt.mix)
        SSL_CTX_set_default_read_buffer_len(run.ctx, MANY_READ);
    else if (!opt.fresh && opt.connections <= 16)
        SSL_CTX_set_default_read_buffer_len(run.ctx, READ_MAX);
    if (opt.ciphers && SSL_CTX_set_ciphersuites(run.ctx, opt.ciphers) != 1) usage("unknown ciphersuite");
    if (SSL_CTX_load_verify_file(run.ctx, opt.ca) != 1) usage("cannot read the CA file %s", opt.ca);
}

void connections_loop(void)
{
    struct epoll_event events[EVENTS];
    run.progress = now();
    while (run.errors == 0) {
        double t = now();
        double wait = run.driver->step(t);
        if (run.errors || run.driver->finished(t)) break;
        if (ready_count > 0) wait = 0;
        if (wait > 1) wait = 1;
        struct timespec timeout = {.tv_sec = (time_t)wait, .tv_nsec = (long)((wait - (double)(time_t)wait) * 1e9)};
        int n = epoll_pwait2(run.epoll, events, EVENTS, &timeout, NULL);
        if (n < 0 && errno != EINTR) fail("epoll: %s", strerror(errno));
        if (n > 0 || ready_count > 0)
            run.progress = t;
        else if (run.issued > run.done && t - run.progress > opt.timeout)
            fail("no progress for %.0f s", opt.timeout);
        for (int i = 0; i < n && run.errors == 0; i++) step(events[i].data.ptr, events[i].events);
        if (ready_count > 0) step_ready();
    }
}
