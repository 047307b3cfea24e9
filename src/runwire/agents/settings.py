"""Settings of agents."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from runwire.settings_group import SettingsGroup, Words, split_commas


class AgentSettings(SettingsGroup):
    """Settings of agents."""

    agents: Words[str] = Field(
        (), description="Agents besides those found by entry point, as `module:object`, comma-separated."
    )
    explore_allow: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(split_commas)] = Field(
        None,
        description="Networks besides public ones that the agent explore may reach, as `10.1.0.0/16`, comma-separated. "
        "Default: loopback when the process serves its API on loopback without authentication, else none.",
    )

    @property
    def explore_networks(self) -> tuple[str, ...]:
        """`explore_allow`, with the default filled in."""
        return self.explore_allow or ()

    @field_validator("explore_allow")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for network in value or ():
            ipaddress.ip_network(network)
        return value

    @field_validator("agents")
    @classmethod
    def _agent_references(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [ref for ref in value if not all(part for part in ref.partition(":"))]
        if wrong:
            raise ValueError(f"must be `module:object`, not {', '.join(wrong)}")
        return value
