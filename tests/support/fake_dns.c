/* Tells a process tree what names stand for: for LD_PRELOAD, see names.py.
 *
 * The file named by SIMULATED_NAMES has lines "name address". Other words in the place of an address: "-" there
 * is no such name, "!" no name server answers, "?" none has answered yet: that takes until it is another word.
 * Names that are not in it are left to the system. Each question about one that is becomes a line of the file named
 * by SIMULATED_NAMES_ASKED.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

/* Whether the file has this name; `address` is what it stands for. */
static int known(const char *name, char address[64]) {
    const char *path = getenv("SIMULATED_NAMES");
    FILE *file = path ? fopen(path, "re") : NULL;
    char other[256];
    int found = 0;
    if (!file) return 0;
    while (!found && fscanf(file, "%255s %63s", other, address) == 2) found = !strcmp(name, other);
    fclose(file);
    return found;
}

static void note(const char *name) {
    const char *path = getenv("SIMULATED_NAMES_ASKED");
    FILE *file = path ? fopen(path, "ae") : NULL;
    if (!file) return;
    fprintf(file, "%s\n", name);
    fclose(file);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    static lookup *real;
    char address[64];
    if (!real) real = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
    if (name && known(name, address)) note(name);
    while (name && known(name, address) && !strcmp(address, "?")) usleep(10000);
    if (name && known(name, address)) {
        if (!strcmp(address, "!")) return EAI_AGAIN;
        if (!strcmp(address, "-")) return EAI_NONAME;
        name = address;
    }
    return real(name, service, hints, found);
}
