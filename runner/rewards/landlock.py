"""Landlock: which files, TCP ports, processes and abstract sockets this process and its children may reach.

Domains nest: each one takes away more and none gives back. The kernel says by its ABI number what it knows; what it
doesn't know is left out and said. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable, Sequence
from functools import cache

LIBC = ctypes.CDLL(None, use_errno=True)
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System call numbers, the same on every architecture."""
PATH_BENEATH, NET_PORT = 1, 2
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
"""Rights that a rule on a single file may have."""
READ = EXECUTE | READ_FILE | READ_DIR
FILE_RIGHTS = {1: 1 << 13, 2: 1 << 14, 3: 1 << 15}
"""ABI → the first right that it doesn't know. From ABI 5 also ioctl on devices, which we leave alone."""
BIND_TCP, CONNECT_TCP = 1, 2
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1, 2
NETWORK_ABI, SCOPE_ABI = 4, 6


@cache
def abi() -> int:
    """What the kernel offers; 0: nothing."""
    try:
        return _syscall(CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0


def restrict(read: Iterable[str], write: Iterable[str], ports: Sequence[int] | None) -> None:
    """Only these files and folders, for reading or for writing too; only these TCP ports, unless None; signals and
    abstract sockets only within. Paths that don't exist are left out. Raises OSError where there is no Landlock."""
    version = _abi_or_raise()
    everything = FILE_RIGHTS.get(version, 1 << 15) - 1
    tcp = BIND_TCP | CONNECT_TCP if ports is not None and version >= NETWORK_ABI else 0
    ruleset = _create(version, everything, tcp)
    try:
        for path in read:
            _allow_path(ruleset, path, READ)
        for path in write:
            _allow_path(ruleset, path, everything)
        for port in ports or () if tcp else ():
            rule = ctypes.create_string_buffer(struct.pack("@QQ", CONNECT_TCP, port), 16)
            _syscall(ADD_RULE, ruleset, NET_PORT, rule, 0)
        _syscall(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def scope() -> None:
    """A domain of its own for this process: it can't signal its parent. Raises OSError where there is none."""
    version = _abi_or_raise()
    if version < SCOPE_ABI:
        raise OSError(errno.ENOSYS, f"Landlock: this kernel's version ({version}) has no scope for signals")
    ruleset = _create(version, 0, 0)
    try:
        _syscall(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _abi_or_raise() -> int:
    version = abi()
    if version == 0:
        raise OSError(errno.ENOSYS, "Landlock: not offered by this kernel")
    return version


def _create(version: int, files: int, tcp: int) -> int:
    scopes = SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS if version >= SCOPE_ABI else 0
    size = 24 if version >= SCOPE_ABI else 16 if version >= NETWORK_ABI else 8
    attributes = ctypes.create_string_buffer(struct.pack("@QQQ", files, tcp, scopes)[:size], size)
    return _syscall(CREATE_RULESET, attributes, size, 0)


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, fd), 12)
        _syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0)
    finally:
        os.close(fd)


def _syscall(number: int, *arguments: object) -> int:
    result = LIBC.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
