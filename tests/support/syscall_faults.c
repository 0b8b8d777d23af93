/* A kernel that refuses what it may refuse: for LD_PRELOAD, see kernel.py.
 *
 * KERNEL_REFUSES names what: "nowait" - reads that must not block would always (preadv2 with RWF_NOWAIT);
 * "watch" - epoll has no room for a socket while the file KERNEL_FULL exists (ENOSPC, epoll_ctl(2)).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
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
