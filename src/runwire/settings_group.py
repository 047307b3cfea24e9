"""Groups of settings. A stage owns its group, in its `settings.py`; `runwire.settings` is all of them at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_settings import NoDecode

T = TypeVar("T")
G = TypeVar("G", bound="SettingsGroup")


class SettingsGroup(BaseModel):
    """The settings of one stage: each field is a setting, with its default, its bounds and its text for the docs.

    The environment variable of a field is its name in capitals after `RUNWIRE_`. Durations carry their unit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    def problems(self) -> Iterable[str]:
        """Sentences about values that do not fit together. A group that has some overrides this, for itself alone."""
        return ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        groups = [vars(kind)["problems"] for kind in reversed(type(self).__mro__) if "problems" in vars(kind)]
        if problems := [problem for problems_of in groups for problem in problems_of(self)]:
            raise ValueError("; ".join(problems))
        return self


def group_of(settings: SettingsGroup, kind: type[G]) -> G:
    """One stage's settings among those of a process. Raises LookupError when there is no such group."""
    if isinstance(settings, kind):
        return settings
    raise LookupError(f"these settings have no {kind.__name__}")


def split_commas(value: object) -> object:
    """The parts of a text that is separated by commas; any other value as it is."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Words: TypeAlias = Annotated[tuple[T, ...], NoDecode, BeforeValidator(split_commas)]
"""Several values, comma-separated in the environment."""
