"""Closes the door behind a parser process: no network, no other process, no files but its code.

Three locks of Linux, each used where the kernel has it, none of which needs a privilege: a seccomp
filter (no sockets, no programs, no new processes), Landlock (only the code of Python and of the
parsers can be read, nothing written), and user namespaces in place of the filter where there is
none. The filter is a list of what is forbidden: a list of what is allowed would differ between C
libraries and architectures, and break parsing where nobody tested it.

See seccomp(2), landlock(7) and https://docs.kernel.org/userspace-api/landlock.html.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import importlib.util
import os
import pkgutil
import platform
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from ragdock.adapters.parsers import syscalls
from ragdock.adapters.parsers.doors import FILES, NETWORK, PROCESSES

__all__ = ["enter"]

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_SECCOMP: Final = {"x86_64": (317, 0, 0xC000003E), "aarch64": (277, 1, 0xC00000B7)}
"""The number of seccomp(2), the column of the tables, and the AUDIT_ARCH constant."""
_SET_MODE_FILTER: Final = 1
_FLAG_TSYNC: Final = 1

_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_REFUSE: Final = 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_X32: Final = 0x40000000  # The bit of a second set of numbers on x86-64.
_CLONE_THREAD: Final = 0x00010000

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_EXECUTE, _READ_FILE, _READ_DIR = 1, 1 << 2, 1 << 3
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights on files each version of Landlock knows; later ones know no more."""
_NETWORK_RIGHTS: Final = 0b11  # Binding and connecting TCP, since version 4.
_SCOPES: Final = 0b11  # Abstract UNIX sockets and signals, since version 6.

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_OWN_STATUS: Final = ("/proc/self", "/dev/null", "/dev/urandom", "/etc/ld.so.cache")
_FOREIGN: Final = ("pypdfium2", "pypdfium2_raw", "selectolax", "numpy", "onnxruntime")


def enter(preload: Iterable[str] = (), load: Callable[[], None] | None = None) -> frozenset[str]:
    """Give up what a parser needs not, for good; returns what is closed (`network`, ...).

    To be called once, while this process has one thread. `preload` names the modules to be imported
    first where it would be impossible afterwards; `load` reads other files of code and models then.
    """
    if sys.platform != "linux":
        return frozenset()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return frozenset()
    closed = set()
    if _landlock(libc):
        closed.add(FILES)
    else:
        _import(preload)
        if load is not None:
            load()
    if _filter(libc, without_opening=FILES not in closed):
        closed |= {NETWORK, PROCESSES, FILES}
    elif libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        closed.add(NETWORK)
    return frozenset(closed)


# Files


def _landlock(libc: ctypes.CDLL) -> bool:
    """Restrict this thread and those it starts to reading code."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    files = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    network = _NETWORK_RIGHTS if version >= 4 else 0
    scopes = _SCOPES if version >= 6 else 0
    handled = struct.pack("QQQ", files, network, scopes)[: 24 if version >= 6 else 16]
    if version < 4:
        handled = handled[:8]
    ruleset = libc.syscall(_LANDLOCK_CREATE, handled, len(handled), 0)
    if ruleset < 0:
        return False
    try:
        for path in (*_code_paths(), *_LIBRARIES, *_OWN_STATUS):
            _allow_reading(libc, ruleset, path)
        return bool(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _allow_reading(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # Not on this system.
    try:
        is_directory = Path(path).is_dir()
        # Without the right to read directories for a file, which the kernel would refuse; reading
        # of what is executable, a shared library, takes no right to execute.
        rights = _READ_FILE | (_READ_DIR if is_directory else 0)
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _code_paths() -> list[str]:
    """Where the code of Python, of ragdock and of the parsing libraries lies, and nothing else.

    Not all of `sys.path`: it may hold the directory that the server was started in.
    """
    paths = {str(Path(os.__file__).parent), str(Path(__file__).parents[2])}
    for path in sys.path:
        if Path(path).name in ("lib-dynload", "site-packages", "dist-packages"):
            paths.add(path)
    for name in _FOREIGN:
        spec = importlib.util.find_spec(name)
        paths.update((spec.submodule_search_locations or ()) if spec else ())
    return sorted(paths)


def _import(names: Iterable[str]) -> None:
    """Import what could not be found later: the parsers, and the codecs that they look up."""
    import encodings  # Only here are all of its modules wanted.

    codecs = (f"encodings.{module.name}" for module in pkgutil.iter_modules(encodings.__path__))
    for name in (*names, *codecs):
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # An extra that is not installed, or a codec of another system.


# System calls


def _filter(libc: ctypes.CDLL, *, without_opening: bool) -> bool:
    """Install the filter for all threads."""
    known = _SECCOMP.get(platform.machine())
    if known is None or sys.byteorder != "little" or sys.maxsize < 2**32:
        return False
    number, column, architecture = known
    program = _program(column, architecture, without_opening=without_opening)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    if libc.syscall(number, _SET_MODE_FILTER, _FLAG_TSYNC, header) == 0:
        return True
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0)


def _program(column: int, architecture: int, *, without_opening: bool) -> bytes:
    """The filter in the kernel's classic BPF: eight bytes an instruction."""
    code: list[bytes] = []

    def add(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        code.append(struct.pack("=HBBI", operation, if_true, if_false, value))

    def refuse_if(number: int | None, error: int) -> None:
        if number is not None:
            add(_EQUAL, number, 0, 1)
            add(_RETURN, _REFUSE | error)

    add(_LOAD, 4)
    add(_EQUAL, architecture, 1, 0)
    add(_RETURN, _KILL)
    add(_LOAD, 0)
    add(_AT_LEAST, _X32, 0, 1)
    add(_RETURN, _REFUSE | errno.ENOSYS)
    tables = [syscalls.FORBIDDEN, syscalls.FILES, *([syscalls.OPENING] if without_opening else [])]
    for table in tables:
        for numbers in table.values():
            refuse_if(numbers[column], errno.EPERM)
    refuse_if(syscalls.CLONE3[column], errno.ENOSYS)
    for numbers in syscalls.SIGNALS.values():
        own = numbers[column]
        assert own is not None
        add(_EQUAL, own, 0, 4)
        add(_LOAD, 16)  # The low half of the first argument: whose process.
        add(_EQUAL, os.getpid(), 1, 0)
        add(_RETURN, _REFUSE | errno.EPERM)
        add(_RETURN, _ALLOW)
    add(_EQUAL, syscalls.CLONE[column], 0, 4)
    add(_LOAD, 16)
    add(_ANY_BIT, _CLONE_THREAD, 1, 0)
    add(_RETURN, _REFUSE | errno.EPERM)
    add(_RETURN, _ALLOW)
    add(_RETURN, _ALLOW)
    return b"".join(code)
