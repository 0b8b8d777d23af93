# The result of a data plane call. EXC is the only one with a Python exception behind it, so a caller that
# declares `except Status.EXC` pays no hidden PyErr_Occurred.

cdef enum Status:
    EXC = -1
    OK = 0
    AGAIN = 1       # nothing now; an event will say when
    END = 2         # the clean end
    FAILED = 3      # broken; the object knows why
    COLD = 4        # the disk would block: fault the pages in on a thread first
