"""System call filters (seccomp BPF), assembled by hand: no library, no privilege.

A filter can't be taken off again, every child inherits it, and the strictest of several wins. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from .landlock import LIBC

AF_INET, AF_INET6, AF_NETLINK = 2, 10, 16  # netlink: getaddrinfo asks it which addresses there are
CLONE_THREAD = 0x00010000
CLONE_NAMESPACES = 0x7E020080
"""Every CLONE_NEW* flag of `clone`."""

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Offsets in struct seccomp_data; the low half of an argument comes first on both architectures."""
SET_MODE_FILTER, ALL_THREADS = 1, 1

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant."""
Rule = list[Instruction]


class Machine(NamedTuple):
    """An architecture that filters can be made for."""

    audit: int
    seccomp: int
    x32: bool
    """Whether system calls also have a second set of numbers, from 0x40000000."""
    numbers: Mapping[str, int]


MACHINES = {
    "x86_64": Machine(
        0xC000003E, 317, True,
        {
            "socket": 41, "connect": 42, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322,
            "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "unshare": 272, "setns": 308,
            "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "bpf": 321, "perf_event_open": 298,
            "userfaultfd": 323, "keyctl": 250, "add_key": 248, "request_key": 249, "kexec_load": 246,
            "init_module": 175, "finit_module": 313, "delete_module": 176, "open_by_handle_at": 304,
        },
    ),
    "aarch64": Machine(
        0xC00000B7, 277, False,
        {
            "socket": 198, "connect": 203, "clone": 220, "execve": 221, "execveat": 281,
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "unshare": 97, "setns": 268,
            "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "bpf": 280, "perf_event_open": 241,
            "userfaultfd": 282, "keyctl": 219, "add_key": 217, "request_key": 218, "kexec_load": 104,
            "init_module": 105, "finit_module": 273, "delete_module": 106, "open_by_handle_at": 265,
        },
    ),
}  # fmt: skip
SAME_EVERYWHERE = {
    "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "clone3": 435, "pidfd_getfd": 438,
    "mount_setattr": 442, "landlock_create_ruleset": 444,
}  # fmt: skip
NEVER = (
    "ptrace", "process_vm_readv", "process_vm_writev", "unshare", "setns", "mount", "umount2", "pivot_root", "chroot",
    "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "kexec_load", "init_module",
    "finit_module", "delete_module", "open_by_handle_at", "open_tree", "move_mount", "fsopen", "pidfd_getfd",
    "mount_setattr",
)  # fmt: skip
"""What no reward needs, and much that has gone wrong in kernels needed."""


def restrict(*, network: bool) -> None:
    """No tampering with other processes, namespaces, mounts and the kernel; no sockets, unless `network`.

    With `network` there are internet sockets only: a Unix socket could be a container daemon's. Pairs of connected
    sockets remain, which asyncio needs. `io_uring`, which passes by any filter, is not there; nor is `clone3`, whose
    flags a filter can't see: the C library then takes `clone`. Raises OSError where filters are not to be had.
    """
    rules = [
        *(refuse(name, errno.EPERM) for name in NEVER),
        refuse("io_uring_setup", errno.ENOSYS),
        refuse("clone3", errno.ENOSYS),
        _refuse_bits("clone", CLONE_NAMESPACES, errno.EPERM),
    ]
    if network:
        rules.append(_refuse_others("socket", (AF_INET, AF_INET6, AF_NETLINK), errno.EACCES))
    else:
        rules += [refuse("socket", errno.EACCES), refuse("connect", errno.EACCES)]
    install(rules)


def forbid_processes() -> None:
    """No fork and no exec from here on; threads are not touched. Raises OSError."""
    _install(no_processes())


@cache
def no_processes() -> bytes:
    """The program of `forbid_processes`; made once for the many forks that need it."""
    rules = [refuse(name, errno.EPERM) for name in ("fork", "vfork", "execve", "execveat")]
    return _program([*rules, refuse("clone3", errno.ENOSYS), _refuse_without("clone", CLONE_THREAD, errno.EPERM)])


def refuse(name: str, error: int) -> Rule:
    number = _number(name)
    return [] if number is None else [(EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | error)]


def install(rules: Iterable[Rule]) -> None:
    """Puts the filter on every thread of this process. Needs no_new_privs. Raises OSError."""
    _install(_program(rules))


def _program(rules: Iterable[Rule]) -> bytes:
    machine = _machine()
    program: Rule = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, machine.audit), (RETURN, 0, 0, KILL)]
    program.append((LOAD, 0, 0, NUMBER))
    if machine.x32:
        program += [(AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    for rule in rules:
        program += rule
    program.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("<HBBI", *line) for line in program)


def _install(program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    if LIBC.syscall(_machine().seccomp, SET_MODE_FILTER, ALL_THREADS, header) != 0:
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")


def _refuse_bits(name: str, bits: int, error: int) -> Rule:
    """Refuses the call when its first argument has any of the bits."""
    return _on_first_argument(name, [(ANY_BIT, 0, 1, bits), (RETURN, 0, 0, ERRNO | error), (RETURN, 0, 0, ALLOW)])


def _refuse_without(name: str, bits: int, error: int) -> Rule:
    return _on_first_argument(name, [(ANY_BIT, 1, 0, bits), (RETURN, 0, 0, ERRNO | error), (RETURN, 0, 0, ALLOW)])


def _refuse_others(name: str, allowed: Sequence[int], error: int) -> Rule:
    """Refuses the call unless its first argument is one of these."""
    tests = [(EQUAL, len(allowed) - i, 0, value) for i, value in enumerate(allowed)]
    return _on_first_argument(name, [*tests, (RETURN, 0, 0, ERRNO | error), (RETURN, 0, 0, ALLOW)])


def _on_first_argument(name: str, rule: Rule) -> Rule:
    number = _number(name)
    return [] if number is None else [(EQUAL, 0, len(rule) + 1, number), (LOAD, 0, 0, FIRST_ARGUMENT), *rule]


def _number(name: str) -> int | None:
    return SAME_EVERYWHERE.get(name) or _machine().numbers.get(name)


def _machine() -> Machine:
    machine = MACHINES.get(os.uname().machine)
    if machine is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise OSError(errno.ENOSYS, f"seccomp: no filter for {os.uname().machine}")
    return machine
