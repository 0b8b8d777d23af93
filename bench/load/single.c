/* A few items again and again, over so many connections: in a closed loop, or in an open one at a rate. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "load.h"

enum { SHOWN = 1024 };

static Item **items;
static int item_count;
static double deadline;

static struct { /* each connection's first answer; seconds from the start of the run */
    double shaken, first_byte, last_byte;
    int item;
} *slots;

void single_add(Item *item)
{
    items = need(realloc(items, (size_t)(item_count + 1) * sizeof *items));
    items[item_count++] = item;
}

static void prepare(void)
{
    slots = need(calloc((size_t)opt.connections, sizeof *slots));
    for (int i = 0; i < opt.connections; i++) slots[i].item = i % item_count;
}

static Item *next_item(int slot)
{
    Item *item = items[slots[slot].item];
    slots[slot].item = (slots[slot].item + 1) % item_count;
    return item;
}

static void note_first(const Connection *c, double t)
{
    if (slots[c->owner].last_byte > 0) return;
    if (c->shaken > 0) slots[c->owner].shaken = c->shaken - run.start;
    slots[c->owner].first_byte = c->first_byte - run.start;
    slots[c->owner].last_byte = t - run.start;
}

/* A request whose connection was closed under it goes out by another one, and counts from when it first did. */
static void ask_again(Connection *c, double t)
{
    Item *item = c->item;
    double since = c->since;
    int owner = c->owner;
    run.retried++;
    Connection *other = connection_open(item->host, owner, t);
    if (other) connection_ask(other, item, -1, since);
}

/* --- closed loop: a connection asks when it has its answer ------------------------------------------------------ */

static bool exhausted(double t)
{
    return enough || (opt.count >= 0 && run.issued >= opt.count) || (opt.seconds >= 0 && t >= deadline);
}

/* A new connection's request counts from the dial, another one from when it is sent. */
static void dial_and_ask(int slot, double t)
{
    Connection *c = connection_open(items[0]->host, slot, t);
    if (c) connection_ask(c, next_item(slot), -1, opt.fresh ? t : 0);
}

static void closed_start(double t)
{
    prepare();
    run.due = t;
    deadline = t + opt.seconds;
    pace_begin(t);
    for (int i = 0; i < opt.connections && !exhausted(t) && run.errors == 0; i++) {
        run.issued++;
        dial_and_ask(i, t);
    }
}

static double closed_step(double t)
{
    (void)t;
    return 1;
}

static void closed_done(Connection *c, double t)
{
    note_first(c, t);
    if (exhausted(t)) {
        if (c->state != CLOSED) connection_close(c);
        return;
    }
    run.issued++;
    if (c->state == CLOSED)
        dial_and_ask(c->owner, t);
    else
        connection_ask(c, next_item(c->owner), -1, 0);
}

static void closed_lost(Connection *c, double t)
{
    if (c->item) ask_again(c, t);
}

static bool all_done(double t)
{
    (void)t;
    return run.done == run.issued;
}

static void never_idle(Connection *c, double t)
{
    (void)c, (void)t;
}

const Driver closed_loop = {closed_start, closed_step, closed_done, closed_lost, never_idle, all_done};

/* --- open loop: a request has its time, whether or not an earlier one is answered ------------------------------- */

static long planned;          /* requests */
static Connection **idle;     /* a ring: the one that has waited longest is next */
static int idle_first, idle_count, in_flight;

static double due(long number)
{
    return run.due + (double)number / opt.rate;
}

static bool scheduled(void)
{
    return !enough && run.issued < planned;
}

static void open_start(double t)
{
    prepare();
    planned = opt.count >= 0 ? opt.count : (long)ceil(opt.seconds * opt.rate);
    run.due = t + LEAD;
    idle = need(calloc((size_t)opt.connections, sizeof *idle));
    for (int i = 0; !opt.fresh && i < opt.connections && run.errors == 0; i++)
        connection_open(items[0]->host, i, t);
}

/* The next request of the schedule goes out on `c`, or on a new connection. */
static void issue(Connection *c, int slot, double could, double t)
{
    double when = due(run.issued);
    if (run.issued == 0) pace_begin(run.due);
    pace_lag(could > when ? could : when, t, (double)run.issued / (double)planned);
    run.issued++;
    in_flight++;
    if (!c) c = connection_open(items[0]->host, slot, t);
    if (c) connection_ask(c, next_item(slot), -1, when);
}

static void open_idle(Connection *c, double t)
{
    if (scheduled() && due(run.issued) <= t) {
        issue(c, c->owner, t, t);
        return;
    }
    c->idle_since = t;
    idle[(idle_first + idle_count++) % opt.connections] = c;
}

static double open_step(double t)
{
    while (scheduled() && due(run.issued) <= t && run.errors == 0) {
        if (opt.fresh) {
            if (in_flight == opt.connections) return 1;
            issue(NULL, (int)(run.issued % opt.connections), 0, t);
            continue;
        }
        if (idle_count == 0) return 1;
        Connection *c = idle[idle_first];
        idle_first = (idle_first + 1) % opt.connections;
        idle_count--;
        issue(c, c->owner, c->idle_since, t);
        connection_step(c);
    }
    return scheduled() ? due(run.issued) - t : 1;
}

static void open_done(Connection *c, double t)
{
    note_first(c, t);
    in_flight--;
    if (c->state != CLOSED)
        open_idle(c, t);
    else if (!opt.fresh)
        connection_open(c->host, c->owner, t);
    else if (scheduled() && due(run.issued) <= t)
        issue(NULL, c->owner, t, t);
}

static void open_lost(Connection *c, double t)
{
    if (c->item) {
        ask_again(c, t);
        return;
    }
    int kept = 0;
    for (int i = 0; i < idle_count; i++) {
        Connection *other = idle[(idle_first + i) % opt.connections];
        if (other != c) idle[(idle_first + kept++) % opt.connections] = other;
    }
    idle_count = kept;
    connection_open(c->host, c->owner, t);
}

static bool open_finished(double t)
{
    (void)t;
    return !scheduled() && run.done == run.issued;
}

const Driver open_loop = {open_start, open_step, open_done, open_lost, open_idle, open_finished};

void single_report(void)
{
    printf("\"clients\": [");
    for (int i = 0; slots && i < opt.connections && i < SHOWN; i++)
        printf("%s{\"handshake\": %.6f, \"first_byte\": %.6f, \"last_byte\": %.6f}", i ? ", " : "", slots[i].shaken,
               slots[i].first_byte, slots[i].last_byte);
    printf("]");
}
