cdef object parse_connect(const char* p, size_t n)
