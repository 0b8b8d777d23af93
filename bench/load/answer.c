/* Answers: the head, the body, its digest. What is not exactly what was asked for is an error.
 *
 * A body has a Content-Length or comes in chunks (RFC 9112, 7.1); one that ends with its connection is refused.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

static const char *field(const char *head, const char *name)
{
    size_t size = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, size) == 0 && line[size] == ':')
            return line + size + 1 + strspn(line + size + 1, " ");
    }
    return NULL;
}

/* Copies a field's value as far as there is room; "" without the field. */
static void take_field(const char *head, const char *name, char *to, size_t room)
{
    const char *value = field(head, name);
    size_t size = value ? strcspn(value, "\r\n") : 0;
    snprintf(to, room, "%.*s", (int)size, value ? value : "");
}

static void count_word(const char *head, Kind *kind)
{
    char word[sizeof kind->cache[0].word];
    take_field(head, opt.cache_header, word, sizeof word);
    for (int i = 0; i < WORDS_MAX; i++) {
        if (kind->cache[i].count == 0) strcpy(kind->cache[i].word, word);
        if (strcmp(kind->cache[i].word, word) == 0) {
            kind->cache[i].count++;
            return;
        }
    }
}

static bool wrong_length(const Connection *c)
{
    fail("the body has %lld bytes, expected %lld: %.*s", c->length, c->item->bytes, (int)strcspn(c->item->text, "\r"),
         c->item->text);
    return false;
}

static bool right_status(const Connection *c, const char *head)
{
    int status = 0;
    if (sscanf(head, "HTTP/1.%*c %d", &status) == 1) {
        int want = c->item->status;
        if (want ? status == want : status >= 200 && status < 300) return true;
    }
    fail("answer to %.*s: %.300s", (int)strcspn(c->item->text, "\r"), c->item->text, head);
    return false;
}

/* A range's answer has to begin where it was asked for, and to be as long as it says. */
static bool right_range(const Connection *c, const char *head)
{
    long long first, last;
    const char *range = field(head, "Content-Range");
    if (c->item->first < 0 || c->item->status != 206) return true;
    if (range && sscanf(range, "bytes %lld-%lld/", &first, &last) == 2 && first == c->item->first &&
        last - first + 1 == c->length)
        return true;
    fail("Content-Range: %.60s, asked for from %lld on, %lld bytes", range ? range : "none", c->item->first, c->length);
    return false;
}

/* Whose digest is to be checked: of what says its own, by the path or by the answer. */
static void begin_hash(Connection *c, const char *head)
{
    char digest[80];
    c->promised[0] = 0;
    c->hashing = false;
    if (opt.check == CHECK_NONE || c->item->bodyless || (opt.check == CHECK_FIRST && c->item->checked)) return;
    if (c->item->sha256[0]) {
        strcpy(c->promised, c->item->sha256);
    } else if (c->item->first < 0) {
        take_field(head, "Docker-Content-Digest", digest, sizeof digest);
        if (strncmp(digest, "sha256:", 7) == 0) snprintf(c->promised, sizeof c->promised, "%.64s", digest + 7);
    }
    if (!c->promised[0]) return;
    c->item->checked = c->hashing = true;
    if (!c->digest) c->digest = need(EVP_MD_CTX_new());
    EVP_DigestInit_ex(c->digest, EVP_sha256(), NULL);
}

/* How long the body is: c->length, -1 with chunks. */
static bool parse_length(Connection *c, const char *head)
{
    const char *length = field(head, "Content-Length"), *coding = field(head, "Transfer-Encoding");
    bool empty = c->item->bodyless || strncmp(head + 9, "204", 3) == 0 || strncmp(head + 9, "304", 3) == 0;
    if (!empty && coding && strncasecmp(coding, "chunked", 7) == 0 && !length) {
        memset(&c->chunk, 0, sizeof c->chunk);
        c->length = -1;
        return true;
    }
    if (!empty && (!length || coding)) {
        fail("answer without a length: %.300s", head);
        return false;
    }
    c->length = length ? atoll(length) : 0;
    if (length && c->item->bytes >= 0 && c->length != c->item->bytes) return wrong_length(c);
    if (!right_range(c, head)) return false;
    if (empty) c->length = 0;
    return true;
}

/* The head is complete and zero-terminated after its blank line. */
static bool parse(Connection *c, const char *head)
{
    const char *connection = field(head, "Connection");
    if (!right_status(c, head) || !parse_length(c, head)) return false;
    c->got = 0;
    c->complete = c->length == 0;
    c->last = connection && strncasecmp(connection, "close", 5) == 0;
    begin_hash(c, head);
    if (opt.cache_header) count_word(head, &run.kinds[c->item->kind]);
    c->state = BODY;
    return true;
}

static void keep(Connection *c, const void *data, size_t size)
{
    c->got += (long long)size;
    if (c->hashing) EVP_DigestUpdate(c->digest, data, size);
}

/* A line of the framing has ended. */
static bool take_line(Connection *c)
{
    char *end;
    bool empty = c->chunk.line_len == 0;
    c->chunk.line[c->chunk.line_len < sizeof c->chunk.line ? c->chunk.line_len : sizeof c->chunk.line - 1] = 0;
    c->chunk.line_len = 0;
    if (c->chunk.at == TRAILER) {
        c->complete = empty;
        return true;
    }
    if (c->chunk.at == DATA_END && empty) {
        c->chunk.at = SIZE;
        return true;
    }
    c->chunk.left = strtoll(c->chunk.line, &end, 16);
    if (c->chunk.at == DATA_END || end == c->chunk.line || c->chunk.left < 0) {
        fail("no chunk: %s", c->chunk.line);
        return false;
    }
    c->chunk.at = c->chunk.left ? DATA : TRAILER;
    return true;
}

static bool take_chunks(Connection *c, const char *data, size_t size)
{
    while (size > 0 && !c->complete) {
        size_t step = 1;
        if (c->chunk.at == DATA) {
            step = (long long)size < c->chunk.left ? size : (size_t)c->chunk.left;
            keep(c, data, step);
            c->chunk.left -= (long long)step;
            if (c->chunk.left == 0) c->chunk.at = DATA_END;
        } else if (*data == '\n') {
            if (!take_line(c)) return false;
        } else if (*data != '\r') {
            if (c->chunk.line_len < sizeof c->chunk.line - 1) c->chunk.line[c->chunk.line_len] = *data;
            c->chunk.line_len++;
        }
        data += step;
        size -= step;
    }
    if (!c->complete) return true;
    c->length = c->got;
    if (c->item->bytes >= 0 && c->length != c->item->bytes) return wrong_length(c);
    if (size > 0) fail("%zu bytes after the last chunk", size);
    return size == 0;
}

static bool take(Connection *c, const void *data, size_t size)
{
    if (c->length < 0) return take_chunks(c, data, size);
    if (c->got + (long long)size > c->length) {
        fail("%lld bytes more than Content-Length", c->got + (long long)size - c->length);
        return false;
    }
    keep(c, data, size);
    c->complete = c->got == c->length;
    return true;
}

bool answer_head(Connection *c)
{
    ssize_t n = connection_receive(c, buffer, sizeof buffer);
    if (n <= 0) return false;
    if (c->head_len == 0) c->first_byte = now();
    size_t take_now = (size_t)n < HEAD_MAX - 1 - c->head_len ? (size_t)n : HEAD_MAX - 1 - c->head_len;
    memcpy(c->head + c->head_len, buffer, take_now);
    char *end = memmem(c->head, c->head_len + take_now, "\r\n\r\n", 4);
    if (!end) {
        c->head_len += take_now;
        if (c->head_len >= HEAD_MAX - 1) fail("head too long");
        return c->head_len < HEAD_MAX - 1;
    }
    size_t used = (size_t)(end + 4 - c->head) - c->head_len;
    end[4] = 0;
    return parse(c, c->head) && take(c, buffer + used, (size_t)n - used);
}

static bool right_digest(Connection *c)
{
    unsigned char raw[32];
    EVP_DigestFinal_ex(c->digest, raw, NULL);
    for (int i = 0; i < 32; i++) sprintf(run.sha256 + 2 * i, "%02x", raw[i]);
    if (strcmp(run.sha256, c->promised) == 0) return true;
    fail("body has sha256 %s, expected %s", run.sha256, c->promised);
    return false;
}

static uint64_t nanoseconds(double seconds)
{
    return seconds > 0 ? (uint64_t)(seconds * 1e9) : 0;
}

/* Note an answer that is complete, or one that was left on purpose: that has no latency. */
static void note(Connection *c, double t, bool dropped)
{
    Kind *kind = &run.kinds[c->item->kind];
    kind->requests++;
    kind->bytes += c->got;
    run.bytes += c->got;
    run.done++;
    c->answers++;
    if (dropped) {
        kind->dropped++;
        if (c->hashing) c->item->checked = false;
        return;
    }
    histogram_add(run.latency, nanoseconds(t - c->since));
    histogram_add(kind->latency, nanoseconds(t - c->since));
    histogram_add(kind->first_byte, nanoseconds(c->first_byte - c->since));
}

bool answer_body(Connection *c)
{
    bool drops = c->drop >= 0 && (c->length < 0 || c->drop < c->length);
    if (!c->complete && !(drops && c->got >= c->drop)) {
        long long room = drops ? c->drop - c->got : READ_MAX;
        ssize_t n = connection_receive(c, buffer, room < READ_MAX ? (size_t)room : READ_MAX);
        if (n <= 0 || !take(c, buffer, (size_t)n)) return false;
    }
    bool leave = drops && c->got >= c->drop;
    if (!c->complete && !leave) return true;
    if (!leave && c->hashing && !right_digest(c)) return false;
    double t = now();
    note(c, t, leave);
    c->item = NULL;
    c->state = WAIT;
    if (leave || c->last || opt.fresh) connection_close(c);
    run.driver->done(c, t);
    return c->state == SEND;
}
