# What a stream reads from its peer, and which of these states may follow which.

cdef enum ReadState:
    READ_PAUSED     # nothing
    READ_HEAD       # a message head, until the blank line
    READ_BODY       # a body, to the sink, by its framing
    READ_IDLE       # an origin's connection between requests: any byte, like its end, makes it useless
    READ_PREFACE    # what a balancer says ahead of all else (PROXY protocol)
    READ_LINGERING  # after our last byte: read and dropped until the peer closes (RFC 9112 section 9.6)


# As bits. Who begins to read, whatever it is, has been told (or has said) that nothing is read any more; only
# an idle connection goes straight to the head of its next answer. One that lingers has sent its last byte,
# and is read from until it is closed. A preface comes before a handler.
#
#                      to  PAUSED  HEAD  BODY  IDLE  PREFACE  LINGERING
#   from PAUSED              x      x     x     x       x        x
#        HEAD                x      x                            x
#        BODY                x                                   x
#        IDLE                x      x                            x
#        PREFACE             x
#        LINGERING           x                                   x
cdef enum:
    TO_PAUSED = 1 << READ_PAUSED
    TO_HEAD = 1 << READ_HEAD
    TO_BODY = 1 << READ_BODY
    TO_IDLE = 1 << READ_IDLE
    TO_PREFACE = 1 << READ_PREFACE
    TO_LINGERING = 1 << READ_LINGERING
    FROM_PAUSED = TO_PAUSED | TO_HEAD | TO_BODY | TO_IDLE | TO_PREFACE | TO_LINGERING
    FROM_HEAD = TO_PAUSED | TO_HEAD | TO_LINGERING
    FROM_BODY = TO_PAUSED | TO_LINGERING
    FROM_IDLE = TO_PAUSED | TO_HEAD | TO_LINGERING
    FROM_PREFACE = TO_PAUSED
    FROM_LINGERING = TO_PAUSED | TO_LINGERING


cdef inline int check_step(ReadState state, ReadState to) except -1:
    """Raise an AssertionError where `to` may not follow `state`."""
    cdef int[6] allowed = [FROM_PAUSED, FROM_HEAD, FROM_BODY, FROM_IDLE, FROM_PREFACE, FROM_LINGERING]
    if not allowed[<int>state] & (1 << <int>to):
        names = ("paused", "head", "body", "idle", "preface", "lingering")
        raise AssertionError(f"a stream can't go from {names[state]} to {names[to]}")
    return 0
