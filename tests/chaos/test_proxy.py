"""The proxy between the parts: it may lose what it likes, but as a network does."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from chaos.proxy import Toxic, proxying
from waiting import eventually


async def test_nothing_follows_what_was_lost_also_when_another_fault_ends_meanwhile() -> None:
    """As TCP has it: who reads on after a hole would take it for a defect of who wrote."""
    said = bytearray()
    writers: list[asyncio.StreamWriter] = []

    async def upstream(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(b"before ")
        await writer.wait_closed()

    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    async with server, proxying(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        said += await reader.readexactly(len(b"before "))
        with ExitStack() as mute:
            with proxy.toxic(Toxic(latency_s=0.001)):
                mute.enter_context(proxy.toxic(Toxic(mute=True)))
                writers[0].write(b"lost ")
            writers[0].write(b"after")
            await eventually(lambda: not writers[0].transport.get_write_buffer_size())
            with pytest.raises(TimeoutError):  # silence, for as long as it is muted
                said += await asyncio.wait_for(reader.read(100), 0.2)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(100), 5)
        assert said == b"before "
        writer.close()
