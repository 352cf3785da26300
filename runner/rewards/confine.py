"""What a reward process may reach, enforced by the kernel's own means: limits, Landlock, system call filters.

No binary and no privilege is needed. Each layer is applied by itself, for one may be missing where the others are not;
what is missing is returned, never raised. This contains mistakes and the text of a model; it is no virtual machine, and
no protection from a reward file that means harm. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Callable
from typing import TypedDict

from . import landlock, seccomp

PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_CAP_AMBIENT, CLEAR_ALL = 38, 24, 47, 4
CAPABILITY_VERSION_3 = 0x20080522
ADDRESS_SPACE_MORE = 2 << 30
"""Bytes of address space above the memory limit: libraries map more than they use."""
FILE_MAXIMUM = 256 << 20
"""Bytes that one file a reward writes, or its output, may have: then it gets an OSError."""
DESCRIPTORS = 1024
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/proc", "/sys/devices/system",
    "/etc/alternatives",
    "/etc/ld.so.cache", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/resolv.conf", "/etc/hosts",
    "/etc/host.conf", "/etc/gai.conf", "/etc/nsswitch.conf", "/etc/services", "/etc/localtime", "/etc/timezone",
    "/etc/mime.types", "/etc/passwd", "/etc/group",
)  # fmt: skip
"""What programs and libraries read. Of /proc the kernel shows a confined process nothing secret of others."""


class Policy(TypedDict):
    """What the host wants enforced; travels as JSON."""

    read: list[str]
    """Files and folders, besides the system's and the interpreter's."""
    write: list[str]
    network: bool | list[int]
    """A list: TCP only to these ports. Name lookups need UDP, which then stays open."""
    subprocess: bool
    memory: int
    """Bytes."""
    hidden: list[str]
    """Names of environment variables whose values no text may show."""


Missing = dict[str, str]
"""Layer → why it is not there."""


def confine(policy: Policy) -> Missing:
    """All that holds for the parent of the workers already, before any code of the user's runs."""
    missing: Missing = {}
    ports = policy["network"] if isinstance(policy["network"], list) else None
    read = [*SYSTEM, *_interpreter(), *policy["read"]]
    layers: dict[str, Callable[[], None]] = {"limits": lambda: _limit(policy["memory"])}
    if sys.platform == "linux":
        layers |= {
            "no_new_privs": lambda: _prctl(PR_SET_NO_NEW_PRIVS, 1),
            "capabilities": _drop_capabilities,
            "landlock": lambda: landlock.restrict(read, [*policy["write"], *DEVICES], ports),
            "seccomp": lambda: seccomp.restrict(network=bool(policy["network"])),
            "no_processes": _prepare_for_forks,
        }
    else:
        missing |= dict.fromkeys(("landlock", "seccomp"), f"{sys.platform} has no means that we know")
    for name, apply in layers.items():
        _try(name, apply, missing)
    return missing


def confine_worker() -> Missing:
    """A worker's own domain: it can't signal its parent, nor another worker."""
    missing: Missing = {}
    if sys.platform == "linux":
        _try("scope", landlock.scope, missing)
    return missing


def forbid_processes(policy: Policy) -> Missing:
    """No fork or exec from here on, unless the policy allows it. For the code that runs rewards, after the import."""
    missing: Missing = {}
    if sys.platform == "linux" and not policy["subprocess"]:
        _try("no_processes", seccomp.forbid_processes, missing)
    return missing


def _prepare_for_forks() -> None:
    """Makes the filter of `forbid_processes` here, once for all that are forked from this process."""
    seccomp.no_processes()


def _try(name: str, apply: Callable[[], None], missing: Missing) -> None:
    try:
        apply()
    except (OSError, ValueError) as error:
        missing[name] = error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _limit(memory: int) -> None:
    """Limits that are there for everybody; one that the system has set lower already stays."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: FILE_MAXIMUM,
        resource.RLIMIT_NOFILE: DESCRIPTORS,
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_AS: memory + ADDRESS_SPACE_MORE,  # shared mappings are no data
    }
    for which, value in wanted.items():
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def _drop_capabilities() -> None:
    """Root's powers over other processes and files, which Landlock alone doesn't take. Others have none."""
    libc = landlock.LIBC
    libc.prctl(PR_CAP_AMBIENT, CLEAR_ALL, 0, 0, 0)
    number = 0
    while libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")
    if os.geteuid() == 0 and number == 0:
        raise OSError(errno.EPERM, "the capability bounding set can't be emptied")


def _prctl(option: int, value: int) -> None:
    if landlock.LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _interpreter() -> list[str]:
    """Python, its standard library and the packages it finds; this folder, for the zygote may execute itself anew."""
    return [sys.prefix, sys.base_prefix, sys.exec_prefix, *filter(None, sys.path), os.path.dirname(__file__)]
