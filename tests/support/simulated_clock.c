/* Tells a process tree another time: for LD_PRELOAD, see clock.py.
 *
 * The file named by SIMULATED_CLOCK is a number of steps, then the steps: from which moment on (by the kernel's
 * clock) how much is added to it. Only the wall clock is moved; what waits and what measures is left alone.
 * Times of files, which the kernel writes, are told as if the kernel's clock had been moved too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

struct step {
    int64_t from, offset; /* nanoseconds */
};

static const struct steps {
    uint64_t count;
    struct step of[];
} *steps;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SIMULATED_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *place = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (place != MAP_FAILED) steps = place;
}

/* What was added at that moment; INT64_MAX is now. */
static int64_t offset_at(int64_t moment) {
    uint64_t count = steps ? __atomic_load_n(&steps->count, __ATOMIC_ACQUIRE) : 0;
    while (count && steps->of[count - 1].from > moment) count--;
    return count ? steps->of[count - 1].offset : 0;
}

static void move(struct timespec *ts, int64_t offset) {
    int64_t moved = ts->tv_sec * SECOND + ts->tv_nsec + offset;
    ts->tv_sec = moved / SECOND;
    ts->tv_nsec = moved % SECOND;
}

static void move_file_time(struct timespec *ts) {
    move(ts, offset_at(ts->tv_sec * SECOND + ts->tv_nsec));
}

int clock_gettime(clockid_t id, struct timespec *ts) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, ts);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) move(ts, offset_at(INT64_MAX));
    return result;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
    struct timespec ts;
    (void)zone; /* obsolete */
    if (clock_gettime(CLOCK_REALTIME, &ts) != 0) return -1;
    tv->tv_sec = ts.tv_sec;
    tv->tv_usec = ts.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (place) *place = ts.tv_sec;
    return ts.tv_sec;
}

/* struct stat and struct stat64 are the same where long has 64 bits, and so are the functions. */
#define STAT(name, parameters, ...)                                                \
    int name parameters {                                                          \
        static int(*real) parameters;                                              \
        if (!real) real = (int(*) parameters)dlsym(RTLD_NEXT, #name);              \
        int result = real(__VA_ARGS__);                                            \
        if (result == 0) {                                                         \
            move_file_time(&status->st_mtim);                                      \
            move_file_time(&status->st_ctim);                                      \
            move_file_time(&status->st_atim);                                      \
        }                                                                          \
        return result;                                                             \
    }
#define STATS(suffix)                                                                                         \
    STAT(stat##suffix, (const char *restrict path, struct stat##suffix *restrict status), path, status)     \
    STAT(lstat##suffix, (const char *restrict path, struct stat##suffix *restrict status), path, status)    \
    STAT(fstat##suffix, (int fd, struct stat##suffix *status), fd, status)                                  \
    STAT(fstatat##suffix,                                                                                    \
         (int at, const char *restrict path, struct stat##suffix *restrict status, int flags), at, path,      \
         status, flags)

STATS()
STATS(64)
