/* A mix: many clients' requests, each at its time, from a plan that bench/mix/replay.py writes.
 *
 * Lines of words with a space between them, I before the R that name it, R in the order of their times:
 *
 *     I KIND METHOD STATUS BYTES SHA256 HOST:PORT PATH RANGE     an item: the first is 0; "-" is "not known"
 *     R SECONDS CLIENT ITEM DROP                                 a request; DROP bytes of its body, or -1: all
 *
 * Each client has connections of its own. A request takes one that leads to its host and is idle, else a new
 * one, as Go's http.Transport does; so requests of one client that overlap have a connection each.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

typedef struct {
    double due; /* s from the beginning */
    int client;
    Item *item;
    long long drop;
} Planned;

static Item **items;
static Planned *plan;
static Connection **idle; /* of each client, a list by `next` */
static long item_count, planned, following;
static int client_count;

static char *word(char **rest, const char *file, long line)
{
    char *found = strsep(rest, " ");
    if (!found || !*found) usage("%s:%ld: a word is missing", file, line);
    return found;
}

static const char *known(const char *text)
{
    return strcmp(text, "-") == 0 ? NULL : text;
}

static void read_item(char *rest, const char *file, long line)
{
    int kind = kind_of(word(&rest, file, line));
    const char *method = word(&rest, file, line), *status = word(&rest, file, line);
    const char *bytes = word(&rest, file, line), *sha256 = word(&rest, file, line);
    Host *host = host_of(word(&rest, file, line));
    const char *path = word(&rest, file, line);
    Item *item = item_new(host, method, path, known(word(&rest, file, line)));
    item->kind = kind;
    item->status = atoi(status);
    if (known(bytes)) item->bytes = atoll(bytes);
    if (known(sha256)) snprintf(item->sha256, sizeof item->sha256, "%s", sha256);
    if (item_count % 1024 == 0) items = need(realloc(items, (size_t)(item_count + 1024) * sizeof *items));
    items[item_count++] = item;
}

static void read_request(char *rest, const char *file, long line)
{
    Planned request = {.due = atof(word(&rest, file, line)), .client = atoi(word(&rest, file, line))};
    long item = atol(word(&rest, file, line));
    request.drop = atoll(word(&rest, file, line));
    if (item < 0 || item >= item_count || request.client < 0) usage("%s:%ld: no such item or client", file, line);
    if (planned && request.due < plan[planned - 1].due) usage("%s:%ld: not in the order of time", file, line);
    request.item = items[item];
    if (request.client >= client_count) client_count = request.client + 1;
    if (planned % 1024 == 0) plan = need(realloc(plan, (size_t)(planned + 1024) * sizeof *plan));
    plan[planned++] = request;
}

void mix_read(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    size_t room = 0;
    ssize_t size;
    if (!file) usage("cannot read %s", path);
    for (long line = 1; (size = getline(&text, &room, file)) > 0; line++) {
        char *rest = text;
        if (text[size - 1] == '\n') text[size - 1] = 0;
        const char *what = word(&rest, path, line);
        if (strcmp(what, "I") == 0)
            read_item(rest, path, line);
        else if (strcmp(what, "R") == 0)
            read_request(rest, path, line);
        else
            usage("%s:%ld: neither I nor R", path, line);
    }
    free(text);
    fclose(file);
    if (planned == 0) usage("%s has no requests", path);
    idle = need(calloc((size_t)client_count, sizeof *idle));
}

static void mix_start(double t)
{
    run.due = t;
    pace_begin(t);
}

static Connection *take_idle(int client, const Host *host)
{
    for (Connection **at = &idle[client]; *at; at = &(*at)->next) {
        if ((*at)->host != host) continue;
        Connection *c = *at;
        *at = c->next;
        c->next = NULL;
        return c;
    }
    return NULL;
}

static void issue(const Planned *request, double t)
{
    double due = run.due + request->due, span = plan[planned - 1].due;
    Connection *c = take_idle(request->client, request->item->host);
    pace_lag(due, t, span > 0 ? request->due / span : 0);
    run.issued++;
    if (c) {
        connection_ask(c, request->item, request->drop, due);
        connection_step(c);
        return;
    }
    c = connection_open(request->item->host, request->client, t);
    if (c) connection_ask(c, request->item, request->drop, due);
}

static double mix_step(double t)
{
    while (!enough && following < planned && run.due + plan[following].due <= t && run.errors == 0)
        issue(&plan[following++], t);
    return following < planned ? run.due + plan[following].due - t : 1;
}

static void mix_idle(Connection *c, double t)
{
    (void)t;
    c->next = idle[c->owner];
    idle[c->owner] = c;
}

static void mix_done(Connection *c, double t)
{
    if (c->state != CLOSED) mix_idle(c, t);
}

/* Takes a connection from its client's list. */
static void forget(const Connection *c)
{
    for (Connection **at = &idle[c->owner]; *at; at = &(*at)->next) {
        if (*at != c) continue;
        *at = c->next;
        return;
    }
}

static void mix_lost(Connection *c, double t)
{
    if (!c->item) {
        forget(c);
        return;
    }
    run.retried++;
    Item *item = c->item;
    long long drop = c->drop;
    double since = c->since;
    c = connection_open(item->host, c->owner, t);
    if (c) connection_ask(c, item, drop, since);
}

static bool mix_finished(double t)
{
    (void)t;
    return (enough || following == planned) && run.done == run.issued;
}

const Driver mix_driver = {mix_start, mix_step, mix_done, mix_lost, mix_idle, mix_finished};
