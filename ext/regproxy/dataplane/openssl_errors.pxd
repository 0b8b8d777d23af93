# OpenSSL's queue of errors, one for each thread.

from libc.string cimport strcmp

from regproxy.dataplane.openssl cimport (
    ERR_clear_error, ERR_peek_error, ERR_peek_last_error, ERR_reason_error_string,
)


cdef inline str drain_errors():
    """Return the newest reason in OpenSSL's queue, and empty it: a left-over error spoils later calls."""
    cdef unsigned long code = ERR_peek_last_error()
    cdef const char* reason = ERR_reason_error_string(code) if code else NULL
    if reason != NULL and not strcmp(reason, b"record layer failure"):
        # From OpenSSL 3.2 on that is all that the newest one says; what has failed was put down first.
        reason = ERR_reason_error_string(ERR_peek_error())
    ERR_clear_error()
    return reason.decode() if reason != NULL else ""


cdef inline void forget_errors() noexcept:
    """Empty OpenSSL's error queue: SSL_get_error takes any error in it for that of the last call."""
    if ERR_peek_error():
        ERR_clear_error()
