"""What a monitor is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Right = Literal["view", "control", "edit"]
RIGHTS: tuple[Right, ...] = ("view", "control", "edit")
"""In their order: each includes those before it. `control` starts and ends runs; `edit` writes reward code, which is to
run code as the person who started the monitor."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    home: Path
    token: str | None
    """None: `--no-token`, everybody who reaches the address has every right."""
    allowed_hosts: frozenset[str] = frozenset()
    """Names that the monitor may be called by, beside those of the loopback."""
    right: Right = "control"
    """The highest one."""
    emulate: bool = False
    """Whether what is queued here is emulated."""

    @property
    def state(self) -> Path:
        return self.home / ".runner"

    @property
    def database(self) -> Path:
        return self.state / "runner.db"

    @property
    def rights(self) -> tuple[Right, ...]:
        return RIGHTS[: RIGHTS.index(self.right) + 1]

    @property
    def hosts(self) -> frozenset[str]:
        """Every name that a request's Host may have, in lower case, without a port."""
        return LOOPBACK_NAMES | self.allowed_hosts


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
