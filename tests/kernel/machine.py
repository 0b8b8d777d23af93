"""Builds a virtual machine out of Debian's cloud kernel and this Python, and runs guest.py in it.

Its initramfs holds the interpreter, the packages that the proxy depends on, the proxy and these tests, each
file at the path it has here. There is no network card: nothing gets in or out but the serial console.
"""

from __future__ import annotations

import contextlib
import os
import py_compile
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from tests.support import ROOT

PROGRAMS = ("modprobe",)
MODULES = ("gcm", "ctr", "ghash-generic", "tls", "virtio_pci", "virtio_blk")
# What a merged /usr makes links.
TOP_LINKS = tuple(Path("/", name) for name in ("bin", "sbin", "lib", "lib64"))
# Parts of the standard library that nobody imports here.
LEFT_OUT = {"test", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "tkinter", "turtledemo", "distutils"}
DISK_BYTES = 128 * 1024 * 1024
MEMORY = "768M"


def missing() -> str | None:
    """Return what is not here that the machine needs, or None."""
    for program in ("qemu-system-x86_64", "mke2fs", "ldd", *PROGRAMS):
        if _program(program) is None:
            return f"{program} is not installed"
    if os.uname().machine != "x86_64":
        return "the virtual machine's kernel is for x86-64, and so has this Python to be"
    if _kernel() is None:
        return "no readable kernel and modules of linux-image-cloud-amd64 in /boot and /lib/modules"
    return None


def run(directory: Path, *, timeout: float) -> list[str]:
    """Build, boot, and return the lines of the console once the machine has powered off.

    Past `timeout` seconds the machine is killed, and what it said until then is returned.
    """
    kernel = _kernel()
    assert kernel is not None
    initramfs, disk, console = (directory / name for name in ("initramfs", "disk", "console"))
    build(initramfs, kernel)
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run([str(_program("mke2fs")), "-q", "-t", "ext4", "-F", disk], check=True, timeout=60)
    command = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY),
        *("-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"),
        *("-kernel", kernel, "-initrd", initramfs),
        *("-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off"),
        *("-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"),
        *("-serial", "stdio"),
    ]
    with (
        console.open("wb") as out,
        subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        ) as machine,
    ):
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                machine.wait(timeout)
        finally:
            machine.kill()
            initramfs.unlink()
            disk.unlink()
    return console.read_text(errors="replace").splitlines()


def build(target: Path, kernel: Path) -> None:
    """Write the initramfs, as an archive that is not compressed."""
    with Archive(target) as archive:
        for path in TOP_LINKS:
            if path.is_symlink():
                archive.link(str(path), path.readlink())
        for name in ("dev", "proc", "sys", "tmp", "disk"):
            archive.directory(f"/{name}")
        for path in (_interpreter(), *_libraries_of_python(), *_packages()):
            archive.file(path)
        for program in PROGRAMS:
            found = _program(program)
            assert found is not None
            archive.file(found.resolve())
            archive.link(f"/sbin/{program}", found.resolve())
        for path in _modules(kernel):
            archive.file(path)
        for source, name in _own(target.parent / "compiled"):
            archive.file(source, name)
        archive.script("/init", _init())
        archive.needed()


class Archive:
    """A cpio archive ("newc", the kernel's Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self, path: Path) -> None:
        self._out = path.open("wb")
        self._known: set[str] = {"/"}
        self._elf: list[Path] = []

    def directory(self, name: str) -> None:
        """Add a directory, and those above it."""
        if name not in self._known:
            self.directory(str(Path(name).parent))
            self._add(name, stat.S_IFDIR | 0o755, b"")

    def link(self, name: str, to: str | Path) -> None:
        self._add_below(name, stat.S_IFLNK | 0o777, os.fsencode(to))

    def script(self, name: str, text: str) -> None:
        self._add_below(name, stat.S_IFREG | 0o755, text.encode())

    def file(self, path: Path, name: str = "") -> None:
        """Add a file under its own path, or another name."""
        data, found = path.read_bytes(), path.stat()
        # Python compiles a source anew unless its time is the one that the compiled file knows.
        self._add_below(name or str(path), found.st_mode, data, int(found.st_mtime))
        if data[:4] == b"\x7fELF":
            self._elf.append(path)

    def needed(self) -> None:
        """Add the shared libraries, and the loader, of all that is there."""
        loaded = subprocess.run(["ldd", *self._elf], capture_output=True, text=True, check=False, timeout=60)
        for path in sorted(set(re.findall(r"(?:=> |^\t)(/\S+) \(", loaded.stdout, re.MULTILINE))):
            self.file(Path(path).resolve(), os.path.normpath(path))

    def _add_below(self, name: str, mode: int, data: bytes, mtime: int = 0) -> None:
        name = self._real(name)
        if name not in self._known:
            self.directory(str(Path(name).parent))
            self._add(name, mode, data, mtime)

    def _real(self, name: str) -> str:
        """Where a name is once /lib and the like are links."""
        path = Path(name)
        top = Path(*path.parts[:2])
        return str(top.resolve() / path.relative_to(top)) if path != top and top.is_symlink() else name

    def _add(self, name: str, mode: int, data: bytes, mtime: int = 0) -> None:
        self._known.add(name)
        path = os.fsencode(name.lstrip("/")) + b"\0"
        fields = (len(self._known), mode, 0, 0, 1, mtime, len(data), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + path
        self._out.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._add("TRAILER!!!", 0, b"")
        self._out.close()


def _program(name: str) -> Path | None:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return Path(found) if found else None


def _kernel() -> Path | None:
    """The newest kernel of that package that can be read, and has its modules."""
    found = [
        path
        for path in sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"))
        if os.access(path, os.R_OK) and _modules_of(path).is_dir()
    ]
    return found[-1] if found else None


def _modules_of(kernel: Path) -> Path:
    return Path("/lib/modules") / kernel.name.partition("-")[2]


def _modules(kernel: Path) -> Iterator[Path]:
    """The modules, those that they need, and the tables that modprobe reads."""
    place = _modules_of(kernel)
    yield from place.glob("modules.*")
    needs = {}
    for line in (place / "modules.dep").read_text().splitlines():
        name, _, others = line.partition(":")
        needs[Path(name).name.partition(".")[0].replace("-", "_")] = [name, *others.split()]
    for module in MODULES:
        # One that is missing here is built into the kernel.
        yield from (place / name for name in needs.get(module.replace("-", "_"), ()))


def _interpreter() -> Path:
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _libraries_of_python() -> Iterator[Path]:
    place = Path(sysconfig.get_path("stdlib"))
    configs = {path.name for path in place.glob("config-*")}
    yield from _code(place, skip=LEFT_OUT | configs | {"site-packages", "dist-packages"})


def _packages() -> Iterator[Path]:
    """The code of the distributions that the proxy depends on, and of those that they depend on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted, known = list(project["dependencies"]), set()
    while wanted:
        match = re.match(r"[\w.-]+", wanted.pop())
        assert match is not None
        name = match[0].lower()
        if name in known:
            continue
        known.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):  # for another platform
            found = metadata.distribution(name)
            wanted += [line for line in found.requires or () if "extra ==" not in line]
            for file in found.files or ():
                path = Path(str(found.locate_file(file)))
                if _is_code(path) and path.is_file():
                    yield path


def _own(compiled: Path) -> Iterator[tuple[Path, str]]:
    """The proxy and its tests: (file, name), with what Python makes of the sources."""
    for path in (*_code(ROOT / "regproxy"), *_code(ROOT / "tests")):
        if path.suffix == ".py":
            code = compiled / path.relative_to(ROOT).with_suffix(".pyc")
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(path), str(code), doraise=True, invalidation_mode=mode)
            cached = f"{path.stem}.{sys.implementation.cache_tag}.pyc"
            yield code, str(path.parent / "__pycache__" / cached)
        if path.suffix != ".pyc":
            yield path, str(path)


def _code(place: Path, skip: Iterable[str] = ()) -> Iterator[Path]:
    """Sources, what Python compiled of them, and shared objects."""
    for folder, folders, names in os.walk(place):
        folders[:] = [name for name in folders if name not in skip]
        for name in names:
            path = Path(folder) / name
            if _is_code(path):
                yield path


def _is_code(path: Path) -> bool:
    return path.suffix in (".py", ".so") or path.name.endswith(f".{sys.implementation.cache_tag}.pyc")


def _init() -> str:
    """Process 1 of the machine."""
    paths = [str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return (
        f"#!{_interpreter()} -I\n"
        f"import sys\nsys.path[:0] = {paths!r}\n"
        "from tests.kernel.guest import main\nmain()\n"
    )
