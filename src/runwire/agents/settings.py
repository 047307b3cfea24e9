"""Settings of agents."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from runwire.settings_group import SettingsGroup, Words, split_commas

_OWN_MACHINE = ("localhost", "127.0.0.1", "::1")


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

    demo_model_url: str | None = Field(
        None,
        description="OpenAI-compatible API that the agent chat asks, as `https://api.openai.com/v1`. "
        "Default: a scripted model in this process.",
    )
    demo_model: str = Field("", description="Model that the agent chat asks for there.")
    demo_model_key: SecretStr | None = Field(None, description="Key for that API.")
    demo_pace_ms: int = Field(45, ge=0, le=2000, description="Pause before each word of the scripted model.")

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

    @field_validator("demo_model_url")
    @classmethod
    def _is_model_url(cls, value: str | None) -> str | None:
        if value is not None:
            url = urlsplit(value)
            if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
                raise ValueError("must be a URL as `https://api.openai.com/v1`, without credentials or a query")
        return value

    @field_validator("demo_model_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not (value.get_secret_value().isascii() and value.get_secret_value().isprintable()):
            raise ValueError("must be printable ASCII")
        return value

    def problems(self) -> Iterable[str]:
        if self.demo_model_url is None:
            return
        if not self.demo_model:
            yield "demo_model_url needs demo_model"
        url = urlsplit(self.demo_model_url)
        if self.demo_model_key is not None and url.scheme == "http" and url.hostname not in _OWN_MACHINE:
            yield "demo_model_key needs an https URL in demo_model_url: over http, others could read the key"

    @field_validator("agents")
    @classmethod
    def _agent_references(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [ref for ref in value if not all(part for part in ref.partition(":"))]
        if wrong:
            raise ValueError(f"must be `module:object`, not {', '.join(wrong)}")
        return value
