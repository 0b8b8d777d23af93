/* Preloaded into a process under callgrind: SIGUSR1 turns instrumentation on, SIGUSR2 writes what was counted
 * since the last time to the next file. Both is done where the event loop waits the next time: callgrind does not
 * survive it within a signal handler. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <sys/epoll.h>
#include <valgrind/callgrind.h>

enum { START = 1, DUMP = 2 };
static int asked;

static void on_signal(int number)
{
    __atomic_fetch_or(&asked, number == SIGUSR1 ? START : DUMP, __ATOMIC_RELAXED);
}

__attribute__((constructor)) static void install(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, 0);
    sigaction(SIGUSR2, &action, 0);
}

int epoll_pwait(int epfd, struct epoll_event *events, int max, int timeout, const sigset_t *mask)
{
    static int (*real)(int, struct epoll_event *, int, int, const sigset_t *);
    if (!real) real = dlsym(RTLD_NEXT, "epoll_pwait");
    int now = __atomic_exchange_n(&asked, 0, __ATOMIC_RELAXED);
    if (now & START)
        CALLGRIND_START_INSTRUMENTATION;
    if (now & DUMP)
        CALLGRIND_DUMP_STATS;
    return real(epfd, events, max, timeout, mask);
}
