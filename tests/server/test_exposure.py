"""The exposure of a service: refused, warned of, encrypted, or behind a token."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from runwire.assembly import Assembly
from runwire.errors import ConfigurationError
from runwire.server import handshakes
from runwire.settings import Role, Settings
from runwire.stream import Streams
from server.calls import RUNS, Api, streaming
from server.conftest import LogLines
from server.issuer import Issuer
from waiting import eventually

ISSUER = Issuer()


@asynccontextmanager
async def serving(database: str, **settings: Any) -> AsyncIterator[Assembly]:
    usual: dict[str, Any] = {"database_url": database, "bus": "memory", "port": 0, "admin_port": 0, "drain_s": 2.0}
    async with Assembly(Settings(**(usual | settings))) as service:
        yield service


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "runwire.example"])  # noqa: S104  # to be refused
async def test_what_others_can_reach_is_not_served_to_everybody_by_accident(database: str, host: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        async with serving(database, host=host):
            pass
    (problem,) = refused.value.problems
    assert all(name in problem for name in (host, "RUNWIRE_KEYS_FILE", "RUNWIRE_JWT_JWKS", "RUNWIRE_AUTH=none"))


async def test_a_worker_serves_no_api_so_it_needs_no_authentication(database: str) -> None:
    async with serving(database, bus="postgres", roles=(Role.WORKER,), host="0.0.0.0"):  # noqa: S104  # nothing is bound
        pass


async def test_whoever_opens_it_on_purpose_is_warned(database: str, log_lines: LogLines) -> None:
    async with (
        serving(database, host="0.0.0.0", admin_host="0.0.0.0", auth="none") as service,  # noqa: S104
        httpx.AsyncClient(base_url=service.url) as http,
    ):
        assert (await http.get(RUNS)).status_code == 200
    warned = {line["listener"]: line for line in log_lines if line["event"] == "exposed"}
    assert warned.keys() == {"api", "admin"}
    assert all(line["log_level"] == "warning" for line in warned.values())
    assert "without credentials" in warned["api"]["to"]


async def test_with_authentication_others_may_reach_it(database: str, tmp_path: Path, log_lines: LogLines) -> None:
    async with (
        serving(database, host="0.0.0.0", **ISSUER.settings(tmp_path)) as service,  # noqa: S104
        httpx.AsyncClient(base_url=service.url) as http,
    ):
        assert (await http.get(RUNS)).status_code == 401
    assert [line for line in log_lines if line["event"] == "exposed"] == []


async def test_metrics_can_be_behind_a_token_and_probes_never_are(database: str) -> None:
    async with (
        serving(database, admin_token="t" * 16) as service,
        httpx.AsyncClient(base_url=service.admin_url) as http,
    ):
        for credentials, status in (
            (None, 401),
            ("Bearer " + "t" * 15, 401),
            ("Bearer é", 401),
            ("Basic " + "t" * 16, 401),
            ("Bearer " + "t" * 16, 200),
        ):
            head = {} if credentials is None else {b"Authorization": credentials.encode()}
            answer = await http.get("/metrics", headers=list(head.items()))
            assert answer.status_code == status, credentials
            assert (status == 401) == ("WWW-Authenticate" in answer.headers)
        assert [(await http.get(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]


# ------------------------------------------------------------------ TLS


class Certificates:
    """A certificate authority, and files with a certificate of it that can be replaced."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.chain, self.key = folder / "chain.pem", folder / "key.pem"
        self.renew()

    def renew(self) -> None:
        made = self.authority.issue_cert("127.0.0.1")
        self.key.write_bytes(made.private_key_pem.bytes())
        self.chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))

    @property
    def settings(self) -> dict[str, Any]:
        return {"tls_cert": self.chain, "tls_key": self.key}

    def context(self, **versions: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        for name, version in versions.items():
            setattr(context, name, version)
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def test_streams_and_calls_come_encrypted_and_browsers_are_told_to_stay_so(
    database: str, certificates: Certificates
) -> None:
    async with serving(database, **certificates.settings) as service:
        assert service.url.startswith("https://")
        assert service.admin_url.startswith("http://")
        async with httpx.AsyncClient(base_url=service.url, verify=certificates.context(), timeout=10) as http:
            api = Api(http)
            run_id = (await api.start())["runId"]
            async with streaming(api, run_id) as stream:
                assert (await stream.rest())[-1].fields["event"] == "end"
            assert "max-age" in (await http.get(RUNS)).headers["Strict-Transport-Security"]


async def test_the_admin_listener_can_be_encrypted_too(database: str, certificates: Certificates) -> None:
    async with (
        serving(database, admin_tls=True, **certificates.settings) as service,
        httpx.AsyncClient(base_url=service.admin_url, verify=certificates.context()) as http,
    ):
        assert (await http.get("/readyz")).status_code == 200


async def test_tls_before_1_2_is_not_spoken(database: str, certificates: Certificates) -> None:
    async with serving(database, **certificates.settings) as service:
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old = certificates.context(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
        async with httpx.AsyncClient(base_url=service.url, verify=old) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(RUNS)


async def test_handshakes_that_never_finish_end_at_their_deadline(
    database: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshakes, "HANDSHAKE_S", 0.5)
    async with serving(database, admin_tls=True, **certificates.settings) as service:
        for port in (service.api_port, service.admin_port):
            opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
            for _, writer in opened[::2]:
                writer.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
            async with asyncio.timeout(20):
                for reader, writer in opened:
                    with contextlib.suppress(ConnectionError):  # a reset is an end, too
                        await reader.read()
                    writer.close()


async def descriptors(service: Assembly) -> float:
    async with httpx.AsyncClient(base_url=service.admin_url) as admin:
        scrape = (await admin.get("/metrics")).text
    return float(next(line for line in scrape.splitlines() if line.startswith("runwire_http_descriptors ")).split()[1])


async def test_handshakes_count_as_connections_and_make_room_for_those_that_ask(
    database: str, certificates: Certificates
) -> None:
    async with serving(database, http_connections_max=10, **certificates.settings) as service:
        opened = [await asyncio.open_connection("127.0.0.1", service.api_port) for _ in range(30)]
        try:

            async def counted() -> bool:
                return await descriptors(service) == 10

            await eventually(counted, within_s=20)
            for _ in range(3):
                async with httpx.AsyncClient(base_url=service.url, verify=certificates.context(), timeout=20) as http:
                    assert (await http.get(RUNS)).status_code == 200
                assert await descriptors(service) <= 10
        finally:
            for _, writer in opened:
                writer.close()

        async def none_left() -> bool:
            return await descriptors(service) == 0

        await eventually(none_left, within_s=20)


async def test_with_tls_too_one_connection_too_many_is_told_so(database: str, certificates: Certificates) -> None:
    async with (
        serving(database, http_connections_max=2, **certificates.settings) as service,
        httpx.AsyncClient(base_url=service.url, verify=certificates.context(), timeout=20) as http,
    ):
        api = Api(http)
        await api.external("watched")
        async with (
            streaming(api, "watched"),
            streaming(api, "watched"),
            httpx.AsyncClient(base_url=service.url, verify=certificates.context(), timeout=20) as other,
        ):
            refused = await other.get(RUNS)
        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")


async def test_a_renewed_certificate_is_shown_after_a_reload_and_a_broken_one_is_not(
    database: str, certificates: Certificates, log_lines: LogLines
) -> None:
    async with serving(database, **certificates.settings) as service:

        async def shown() -> bytes:
            # Each time a connection of its own: those that are open keep what they were shown.
            host, port = "127.0.0.1", service.api_port
            _, writer = await asyncio.open_connection(host, port, ssl=certificates.context(), server_hostname=host)
            found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            await writer.wait_closed()
            return found

        first = await shown()
        certificates.renew()
        service.reload()
        second = await shown()
        certificates.chain.write_text("broken")
        service.reload()
        assert first != second == await shown()
    assert [line["source"] for line in log_lines if line["event"] == "credentials_unreadable"] == ["tls_cert"]
    assert len([line for line in log_lines if line["event"] == "certificate_loaded"]) == 1
    log_lines.clear()


async def test_files_that_are_no_certificate_are_a_wrong_setting(database: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="RUNWIRE_TLS_CERT"):
        async with serving(database, tls_cert=tmp_path / "none", tls_key=tmp_path / "none"):
            pass


async def test_a_stream_does_not_outlive_what_let_its_client_in(service: Assembly, api: Api) -> None:
    await api.external("r")
    streams = service.part(Streams)
    async with streaming(api, "r") as stream:
        await stream.frames(3)
        (session,) = streams.sessions
        session.rotate_within(0.0)
        assert await stream.rest() != []
    await eventually(lambda: not streams.sessions)
