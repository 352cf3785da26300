"""What every section of a job is made of: the base class, the common types, and how a validator says what is wrong."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Requirement = Annotated[str, Field(pattern=r"^[A-Za-z0-9][^\r\n]*$", max_length=500)]
"""A package as pip takes it, `name` with conditions; no option and no path."""
Text = Annotated[str, Field(min_length=1)]


class Problem(NamedTuple):
    """What is well-formed and still makes no sense; `field` is relative to where it was found."""

    field: str
    message: str
    hint: str


def nonsense(*problems: Problem) -> PydanticCustomError:
    """The error a validator raises for meaning; becomes one finding of code `semantic` per problem."""
    return PydanticCustomError("semantic", "{text}", {"text": problems[0].message, "problems": problems})


class Section(BaseModel):
    """Base of every section: frozen, typos refused, no coercion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
