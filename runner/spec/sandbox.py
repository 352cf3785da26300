"""What reward functions may reach and use: the sandbox, their secrets, and limits for those that ask a service."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from runner.spec.section import Count, Positive, Problem, Section, Text, nonsense

VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Guarantee = Literal["memory", "network", "filesystem", "secrets", "signals", "subprocess"]


class Ports(Section):
    """A network with few doors."""

    ports: Annotated[list[Annotated[int, Field(ge=1, le=65535)]], Field(min_length=1)]
    """TCP ports that may be reached. Name lookups need UDP, which is open then."""


class Sandbox(Section):
    """What reward code may reach. Everything is closed unless it is opened here."""

    require: list[Guarantee] = []
    """The run doesn't start where one of these isn't enforced."""
    network: bool | Ports = False
    """`true`, or `{ports: [443]}`."""
    subprocess: bool = False
    """Whether rewards may start processes. While a reward file is imported it may."""
    files: list[Text] = []
    """Files and folders that rewards may read, beside the job or absolute."""
    env: list[VariableName] = []
    """Names of environment variables to pass on, where they are set."""
    memory_mb: Annotated[int, Field(ge=64)] = 2048
    """Memory of one reward process, in MiB."""

    @model_validator(mode="after")
    def _requires_what_it_closes(self) -> Self:
        opened = [name for name in self.require if getattr(self, name, None) is True]
        if opened:
            hint = "leave it closed, or take it out of `require`"
            raise nonsense(*(Problem("require", f"requires `{name}` and opens it", hint) for name in opened))
        return self


class Secret(Section):
    """Where a secret is found. Its value is in no file, record or command line of ours."""

    env: Text | None = None
    """Name of an environment variable of the process that starts the run."""
    file: Text | None = None
    """A file with nothing else in it, beside the job or absolute."""

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise nonsense(Problem("", "a secret is found in one place", "give `env: NAME` or `file: path`"))
        return self


class RateLimit(Section):
    """How fast calls of a reward may start, for a service that counts."""

    rpm: Positive | None = None
    """Calls a minute."""
    tpm: Positive | None = None
    """Tokens a minute, as counted with `ctx.use_tokens(n)`: calls wait while more were used."""


class Retries(Section):
    """Calls that failed for a reason that passes are tried again."""

    max: Count = 3
    """Times."""
    backoff: Positive = 1.0
    """Seconds before the first retry; doubled for each further one."""


class Budget(Section):
    """What the calls of one run may use, over all its attempts."""

    calls: Count | None = None
    """Calls started."""
    tokens: Count | None = None
    """Tokens, as counted with `ctx.use_tokens(n)`."""
