"""Builds the data plane: every ext/regproxy/*.pyx becomes regproxy.<name>, linked to the system's OpenSSL."""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("REGPROXY_DEBUG") == "1"
JOBS = len(os.sched_getaffinity(0))
SOURCES = sorted(Path("ext/regproxy").glob("*.pyx"))

extensions = [
    Extension(
        f"regproxy.{source.stem}",
        [str(source)],
        libraries=["ssl", "crypto"],
        extra_compile_args=["-O2", "-Wall", "-Wno-unused-function"],
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
    options={"build_ext": {"parallel": JOBS}},
)
