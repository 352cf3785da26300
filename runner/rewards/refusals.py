"""What the sandbox refused, in words, with the line of the job that opens it. Standard library only."""

from __future__ import annotations

import errno

from .confine import Policy

PROCESS_FILES = ("subprocess.py", "popen_fork.py", "popen_spawn_posix.py", "forkserver.py", "pty.py")

_policy: Policy | None = None


def remember(policy: Policy) -> None:
    """The policy that this process lives under, for `way_out`."""
    global _policy
    _policy = policy


def way_out(error: BaseException, file: str, line: str) -> str:
    """What closed the door, and what opens it; empty for an error that is none of the sandbox's. `file` and `line`
    are the innermost line of code, as text."""
    if _policy is None:
        return ""
    if isinstance(error, MemoryError):
        return f"a reward process may have {_policy['memory'] >> 20} MiB; the job's `sandbox: {{memory_mb: …}}` says so"
    if type(error).__name__ == "gaierror" and not _policy["network"]:
        return _network(_policy)
    if not isinstance(error, PermissionError):
        return ""
    if error.errno == errno.EACCES:
        return _network(_policy) if error.filename is None else _files(_policy, str(error.filename))
    if not _policy["subprocess"] and (error.filename or _starts_process(file, line)):
        return "rewards may not start processes; `sandbox: {subprocess: true}` in the job opens this"
    return ""


def _network(policy: Policy) -> str:
    ports = policy["network"]
    if isinstance(ports, list):
        return f"rewards may reach TCP ports {', '.join(map(str, ports))} only; `sandbox.network` in the job says so"
    if ports:
        return ""
    return "network is off for rewards; `sandbox: {network: true}` in the job opens it"


def _files(policy: Policy, path: str) -> str:
    return (
        f"rewards write only below {policy['write'][0]} (their $HOME); "
        f"`sandbox: {{files: [{path}]}}` in the job opens a path for reading"
    )


def _starts_process(file: str, line: str) -> bool:
    return file.endswith(PROCESS_FILES) or any(word in line for word in ("fork", "exec", "spawn", "Popen"))
