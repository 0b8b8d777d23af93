"""Builds the data plane: ext/regproxy/dataplane/*.pyx, linked to the system's OpenSSL.

REGPROXY_BUILD=0 leaves it out: `make` builds it in a step of its own, which knows what has changed.
REGPROXY_SANITIZE=1 builds it with AddressSanitizer and UndefinedBehaviorSanitizer into build/asan instead, as
`python -m tests.support.sanitized` does.
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("REGPROXY_DEBUG") == "1"
SANITIZE = os.environ.get("REGPROXY_SANITIZE") == "1"
JOBS = len(os.sched_getaffinity(0))
BUILD = os.environ.get("REGPROXY_BUILD") != "0"
SOURCES = sorted(Path("ext/regproxy/dataplane").glob("*.pyx")) if BUILD else []
CHECKS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    # Python's own flags have -fwrapv, with which no overflow would be an error.
    "-fno-wrapv",
    "-fno-omit-frame-pointer",
    "-g",
    "-O1",
]
# Directories of its own: the usual build neither finds these objects, nor its modules replaced.
PLACES = {"build_temp": "build/asan/temp", "build_lib": "build/asan", "inplace": False} if SANITIZE else {}

extensions = [
    Extension(
        f"regproxy.dataplane.{source.stem}",
        [str(source)],
        libraries=["ssl", "crypto"],
        extra_compile_args=["-O2", "-Wall", "-Wno-unused-function", *(CHECKS if SANITIZE else [])],
        extra_link_args=CHECKS[:1] if SANITIZE else [],
        define_macros=[("_GNU_SOURCE", "1")],
    )
    for source in SOURCES
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["ext"],
        build_dir="build/cython",
        nthreads=JOBS,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
        },
        annotate=DEBUG,
    ),
    options={"build_ext": {"parallel": JOBS, **PLACES}},
)
