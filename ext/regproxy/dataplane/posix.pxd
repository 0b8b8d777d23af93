# System calls and libc functions that Cython's own posix.* does not declare.

from libc.stdint cimport uint32_t, uint64_t, int64_t

cdef extern from "<sys/types.h>" nogil:
    ctypedef long off_t
    ctypedef long ssize_t

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET, EPOLLEXCLUSIVE

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    struct sockaddr_storage:
        unsigned short ss_family
    ctypedef unsigned int socklen_t
    struct linger:
        int l_onoff
        int l_linger
    int accept4(int fd, sockaddr* addr, socklen_t* addrlen, int flags)
    ssize_t recv(int fd, void* buf, size_t n, int flags)
    ssize_t send(int fd, const void* buf, size_t n, int flags)
    int getsockname(int fd, sockaddr* addr, socklen_t* addrlen)
    int getpeername(int fd, sockaddr* addr, socklen_t* addrlen)
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t n)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* n)
    int SOCK_NONBLOCK, SOCK_CLOEXEC, MSG_NOSIGNAL, MSG_MORE, MSG_DONTWAIT, MSG_PEEK, SHUT_WR, SHUT_RDWR
    int SOL_SOCKET, SO_LINGER, SO_ERROR, SO_SNDBUF, AF_INET, AF_INET6

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        unsigned char s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        in6_addr sin6_addr
    unsigned short ntohs(unsigned short n)

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int af, const char* src, void* dst)
    const char* inet_ntop(int af, const void* src, char* dst, socklen_t size)
    int INET6_ADDRSTRLEN

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY, TCP_ULP

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t n, int prot, int flags, int fd, off_t offset)
    int munmap(void* addr, size_t n)
    int memfd_create(const char* name, unsigned int flags)
    int PROT_READ, PROT_WRITE, MAP_SHARED, MFD_CLOEXEC
    void* MAP_FAILED

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int pipe2(int* fds, int flags)
    ssize_t read(int fd, void* buf, size_t n)
    ssize_t pread(int fd, void* buf, size_t n, off_t offset)
    ssize_t pwrite(int fd, const void* buf, size_t n, off_t offset)

cdef extern from "<sys/sendfile.h>" nogil:
    ssize_t sendfile(int out_fd, int in_fd, off_t* offset, size_t n)

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<linux/sockios.h>" nogil:
    unsigned long SIOCINQ, SIOCOUTQ

cdef extern from "<fcntl.h>" nogil:
    int fcntl(int fd, int cmd, ...)
    int fallocate(int fd, int mode, off_t offset, off_t n)
    int F_GETFL, F_SETFL, O_NONBLOCK, O_CLOEXEC
    int F_SETPIPE_SZ, F_GETPIPE_SZ
    ssize_t splice(int fd_in, off_t* off_in, int fd_out, off_t* off_out, size_t n, unsigned int flags)
    unsigned int SPLICE_F_MOVE, SPLICE_F_NONBLOCK

cdef extern from "<linux/falloc.h>" nogil:
    int FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        off_t st_size
    int fstat(int fd, stat_t* buf)

cdef extern from "<sys/inotify.h>" nogil:
    struct inotify_event:
        int wd
        uint32_t mask
        uint32_t cookie
        uint32_t len
    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char* path, uint32_t mask)
    int inotify_rm_watch(int fd, int wd)
    int IN_NONBLOCK, IN_CLOEXEC
    uint32_t IN_MODIFY, IN_CLOSE_WRITE, IN_MOVE_SELF, IN_ATTRIB, IN_DELETE_SELF, IN_IGNORED, IN_Q_OVERFLOW

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec* iov, int iovcnt, off_t offset, int flags)
    int RWF_NOWAIT

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* ts)
    int CLOCK_MONOTONIC, CLOCK_REALTIME

cdef extern from "<string.h>" nogil:
    void* memmem(const void* haystack, size_t n, const void* needle, size_t m)
    void* memchr(const void* s, int c, size_t n)
    void* memmove(void* dst, const void* src, size_t n)
    void* memcpy(void* dst, const void* src, size_t n)
    int memcmp(const void* a, const void* b, size_t n)
    char* strerror(int errnum)

cdef extern from "<strings.h>" nogil:
    int strcasecmp(const char* a, const char* b)
    int strncasecmp(const char* a, const char* b, size_t n)

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EINTR, EOPNOTSUPP, EINVAL, ECONNRESET, EPIPE, ENOMEM, EMFILE, ENFILE, ECONNABORTED
    int EIO, EFBIG, ENOSPC, ENOSYS, EPERM
