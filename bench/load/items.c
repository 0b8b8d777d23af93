/* What can be asked for, where, and the kinds by which it is reported. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

static Host **hosts;
static size_t host_count;

Host *host_of(const char *authority)
{
    for (size_t i = 0; i < host_count; i++)
        if (strcmp(hosts[i]->authority, authority) == 0) return hosts[i];
    Host *host = need(calloc(1, sizeof *host));
    host->authority = need(strdup(authority));
    if (opt.sni) {
        host->name = need(strdup(opt.sni));
    } else {
        const char *colon = strrchr(authority, ':');
        host->name = need(strndup(authority, colon ? (size_t)(colon - authority) : strlen(authority)));
    }
    if (opt.proxy) {
        int n = asprintf(&host->connect, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: Go-http-client/1.1\r\n\r\n",
                         authority, authority);
        host->connect_len = (size_t)n;
    }
    hosts = need(realloc(hosts, (host_count + 1) * sizeof *hosts));
    hosts[host_count++] = host;
    return host;
}

Item *item_new(Host *host, const char *method, const char *path, const char *range)
{
    Item *item = need(calloc(1, sizeof *item));
    item->host = host;
    item->bytes = item->first = -1;
    item->bodyless = strcmp(method, "HEAD") == 0;
    if (range) {
        item->status = 206;
        if (sscanf(range, "bytes=%lld-", &item->first) != 1) usage("not a range: %s", range);
    }
    size_t size = strlen(host->authority); /* the scheme's own port is left out, as Go and curl do */
    if (opt.tls && size > 4 && strcmp(host->authority + size - 4, ":443") == 0) size -= 4;
    int n = asprintf(&item->text, "%s %s HTTP/1.1\r\nHost: %.*s\r\n%s%s%s%s\r\n", method, path, (int)size,
                     host->authority, opt.headers, range ? "Range: " : "", range ? range : "", range ? "\r\n" : "");
    item->text_len = (size_t)n;
    return item;
}

int kind_of(const char *name)
{
    for (int i = 0; i < run.kind_count; i++)
        if (strcmp(run.kinds[i].name, name) == 0) return i;
    if (run.kind_count == KINDS_MAX) usage("more than %d kinds", KINDS_MAX);
    Kind *kind = &run.kinds[run.kind_count];
    snprintf(kind->name, sizeof kind->name, "%s", name);
    kind->latency = need(calloc(1, sizeof *kind->latency));
    kind->first_byte = need(calloc(1, sizeof *kind->first_byte));
    return run.kind_count++;
}
