"""The agent of `runwire demo chat`. A service of your own serves it with `--agents runwire.agents.chat:chat`."""

from runwire.agents.chat.agent import chat

__all__ = ["chat"]
