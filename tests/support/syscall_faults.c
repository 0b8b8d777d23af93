/* A kernel that refuses what it may refuse: for LD_PRELOAD, see kernel.py.
 *
 * KERNEL_REFUSES names what: "nowait" - reads that must not block would always (preadv2 with RWF_NOWAIT);
 * "watch" - epoll has no room for a socket while the file KERNEL_FULL exists (ENOSPC, epoll_ctl(2));
 * "splice in", "splice out" - sockets give nothing to pipes, or take nothing from them (EINVAL, splice(2));
 * "pipes" - no descriptors for pipes while that file exists (EMFILE, pipe2(2));
 * "pipe sizes" - this user has too many, so that a new one has two pages and gets no more (EPERM, pipe(7)).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int refuses(const char *what) {
    const char *named = getenv("KERNEL_REFUSES");
    return named && !strcmp(named, what);
}

/* What preadv2 is called where Python.h has made off_t a large one. */
ssize_t preadv64v2(int fd, const struct iovec *pieces, int count, off64_t offset, int flags) {
    static ssize_t (*real)(int, const struct iovec *, int, off64_t, int);
    if (!real) real = (ssize_t(*)(int, const struct iovec *, int, off64_t, int))dlsym(RTLD_NEXT, "preadv64v2");
    if (flags & RWF_NOWAIT && refuses("nowait")) {
        errno = EAGAIN;
        return -1;
    }
    return real(fd, pieces, count, offset, flags);
}

int epoll_ctl(int set, int what, int fd, struct epoll_event *event) {
    static int (*real)(int, int, int, struct epoll_event *);
    const char *full = getenv("KERNEL_FULL");
    if (!real) real = (int (*)(int, int, int, struct epoll_event *))dlsym(RTLD_NEXT, "epoll_ctl");
    if (what == EPOLL_CTL_ADD && refuses("watch") && full && !access(full, F_OK)) {
        errno = ENOSPC;
        return -1;
    }
    return real(set, what, fd, event);
}

ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned int flags) {
    static ssize_t (*real)(int, off64_t *, int, off64_t *, size_t, unsigned int);
    struct stat from;
    if (!real) real = (ssize_t(*)(int, off64_t *, int, off64_t *, size_t, unsigned int))dlsym(RTLD_NEXT, "splice");
    fstat(in, &from);
    if (refuses(S_ISFIFO(from.st_mode) ? "splice out" : "splice in")) {
        errno = EINVAL;
        return -1;
    }
    return real(in, in_at, out, out_at, size, flags);
}

int pipe2(int ends[2], int flags) {
    static int (*real)(int *, int);
    if (!real) real = (int (*)(int *, int))dlsym(RTLD_NEXT, "pipe2");
    const char *full = getenv("KERNEL_FULL");
    if (refuses("pipes") && full && !access(full, F_OK)) {
        errno = EMFILE;
        return -1;
    }
    return real(ends, flags);
}

static int change(const char *name, int fd, int what, void *value) {
    int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
    if (what == F_SETPIPE_SZ && refuses("pipe sizes")) {
        real(fd, F_SETPIPE_SZ, 8192);
        errno = EPERM;
        return -1;
    }
    return real(fd, what, value);
}

int fcntl(int fd, int what, ...) {
    va_list more;
    va_start(more, what);
    void *value = va_arg(more, void *);
    va_end(more);
    return change("fcntl", fd, what, value);
}

/* What fcntl is called where Python.h has made off_t a large one. */
int fcntl64(int fd, int what, ...) {
    va_list more;
    va_start(more, what);
    void *value = va_arg(more, void *);
    va_end(more);
    return change("fcntl64", fd, what, value);
}
