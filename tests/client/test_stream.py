"""A stream gives each event once and in order, whatever the connections do."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator

import pytest

from client.crooked import Answer, Crooked, crooked_server, end, event, events, hangs_up, plain, problem, stream
from runwire.client import Client, RunStream, ServerUnreachable, StreamBroken, UnexpectedAnswer
from runwire.errors import CursorExpired, CursorPastTail, InvalidRequest, RunNotFound
from runwire.model.run import RunState

VIEW = b'{"runId":"r1","agent":"golden","state":"failed","lastSeq":3,"publishedSeq":3}'


@pytest.fixture
async def server() -> AsyncIterator[Crooked]:
    async with crooked_server() as server:
        yield server


@pytest.fixture
async def client(server: Crooked) -> AsyncIterator[Client]:
    async with Client(server.url, retry_s=2) as client:
        yield client


async def seqs(stream: RunStream) -> list[int]:
    async with asyncio.timeout(10):
        return [event.seq async for event in stream]


async def test_a_whole_stream_ends_with_the_state_of_the_run(server: Crooked, client: Client) -> None:
    server.will_stream(stream(events(1, 3), end(3)))
    followed = client.stream("r1")
    assert await seqs(followed) == [1, 2, 3]
    assert followed.end is not None
    assert (followed.end.state, followed.end.last_seq, followed.connections) == (RunState.FINISHED, 3, 1)


async def test_a_connection_lost_amid_a_frame_goes_on_at_the_cursor(server: Crooked, client: Client) -> None:
    server.will_stream(
        stream(events(1, 2) + event(3)[:20], then="abort"),
        stream(event(3)[:-1], then="close"),
        stream(events(3, 4), end(4)),
    )
    assert await seqs(client.stream("r1")) == [1, 2, 3, 4]
    assert server.cursors() == [None, "2", "2"]


async def test_events_sent_twice_are_given_once(server: Crooked, client: Client) -> None:
    server.will_stream(stream(events(1, 3), events(2, 4), end(4)))
    assert await seqs(client.stream("r1")) == [1, 2, 3, 4]


async def test_a_gap_is_read_again_from_the_cursor(server: Crooked, client: Client) -> None:
    server.will_stream(stream(events(1, 2) + event(4), then="silence"), stream(events(3, 4), end(4)))
    assert await seqs(client.stream("r1")) == [1, 2, 3, 4]
    assert server.cursors() == [None, "2"]


async def test_an_end_that_comes_before_the_last_event_is_a_gap(server: Crooked, client: Client) -> None:
    server.will_stream(stream(events(1, 2), end(3), then="silence"), stream(event(3), end(3)))
    assert await seqs(client.stream("r1")) == [1, 2, 3]


async def test_a_stream_starts_after_the_given_cursor(server: Crooked, client: Client) -> None:
    server.will_stream(stream(events(3, 4), end(4)))
    assert await seqs(client.stream("r1", after=2)) == [3, 4]
    assert server.cursors() == ["2"]


async def test_no_content_is_the_end_and_the_state_is_asked_for(server: Crooked, client: Client) -> None:
    server.will_stream(stream(events(1, 3), then="abort"), plain(204))
    server.will("/api/agents/runs/r1", plain(200, VIEW))
    followed = client.stream("r1")
    assert await seqs(followed) == [1, 2, 3]
    assert followed.end is not None
    assert followed.end.state is RunState.FAILED


async def test_silence_is_a_lost_connection(server: Crooked, client: Client) -> None:
    server.will_stream(stream(event(1), then="silence"), stream(event(2), end(2)))
    assert await seqs(client.stream("r1", idle_s=0.2)) == [1, 2]
    assert server.cursors() == [None, "1"]


async def test_comments_keep_a_silent_stream_alive(server: Crooked, client: Client) -> None:
    server.will_stream(stream(*[b": heartbeat\n\n"] * 6, event(1), end(1), pause_s=0.1))
    followed = client.stream("r1", idle_s=0.4)
    assert await seqs(followed) == [1]
    assert followed.connections == 1


@pytest.mark.parametrize(
    "refusal",
    [
        problem(503, "draining", headers={"Retry-After": "0"}),
        problem(429, "busy", headers={"Retry-After": "0"}),
        plain(502, b"<html>bad gateway</html>", content_type="text/html"),
        plain(500),
        hangs_up(),
    ],
)
async def test_a_refusal_that_may_pass_is_tried_again(server: Crooked, client: Client, refusal: Answer) -> None:
    server.will_stream(refusal, stream(event(1), then="abort"), refusal, stream(event(2), end(2)))
    assert await seqs(client.stream("r1")) == [1, 2]


async def test_retry_after_is_heeded(server: Crooked, client: Client) -> None:
    server.will_stream(problem(503, "draining", headers={"Retry-After": "1"}), stream(event(1), end(1)))
    began = time.monotonic()
    assert await seqs(client.stream("r1")) == [1]
    assert time.monotonic() - began >= 1


async def test_the_servers_reconnection_time_is_heeded_and_spread(server: Crooked, client: Client) -> None:
    server.will_stream(stream(event(1), retry=b"retry: 400\n\n"), stream(event(2), end(2)))
    began = time.monotonic()
    assert await seqs(client.stream("r1")) == [1, 2]
    assert 0.4 <= time.monotonic() - began < 2


async def test_failures_in_a_row_wait_longer_each_time(server: Crooked, client: Client) -> None:
    server.will_stream(stream(event(1), retry=b"retry: 50\n\n"), *[stream(retry=b"")] * 4, stream(event(2), end(2)))
    began = time.monotonic()
    assert await seqs(client.stream("r1")) == [1, 2]
    assert time.monotonic() - began >= 0.05 + 0.1 + 0.2 + 0.4 + 0.8


async def test_a_server_that_once_answered_is_waited_for_even_before_the_first_event(server: Crooked) -> None:
    server.will_stream(*[stream(retry=b"retry: 60\n\n")] * 3, stream(event(1), end(1)))
    async with Client(server.url, retry_s=0.1) as client:
        assert await seqs(client.stream("r1")) == [1]


async def test_patience_is_bounded_when_asked(server: Crooked, client: Client) -> None:
    server.will_stream(*[stream(event(1))] * 100)
    followed = client.stream("r1", patience_s=0.2)
    with pytest.raises(StreamBroken):
        await seqs(followed)
    assert followed.cursor == 1


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (problem(404, "run_not_found", runId="r1"), RunNotFound),
        (problem(400, "cursor_past_tail", runId="r1", cursor=7, lastSeq=3), CursorPastTail),
        (problem(400, "invalid_cursor"), InvalidRequest),
        (problem(410, "cursor_expired", runId="r1", earliestSeq=5), CursorExpired),
        (plain(200, b"<html>log in</html>", content_type="text/html"), UnexpectedAnswer),
        (stream(b"data: no json\n\n"), UnexpectedAnswer),
        (stream(event(1, run_id="another")), UnexpectedAnswer),
    ],
)
async def test_what_no_reconnect_can_heal_is_raised_by_type(
    server: Crooked, client: Client, refusal: Answer, error: type[Exception]
) -> None:
    server.will_stream(refusal)
    with pytest.raises(error):
        await seqs(client.stream("r1"))
    assert len(server.seen) == 1


async def test_errors_carry_the_facts_of_the_problem(server: Crooked, client: Client) -> None:
    server.will_stream(problem(410, "cursor_expired", runId="r1", earliestSeq=5))
    with pytest.raises(CursorExpired) as caught:
        await seqs(client.stream("r1"))
    assert caught.value.earliest_seq == 5


async def test_a_server_that_was_never_there_is_unreachable_after_a_bounded_time() -> None:
    async with Client("http://127.0.0.1:1", retry_s=0.2) as client:
        with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:1"):
            await seqs(client.stream("r1"))


async def test_a_server_that_goes_and_comes_back_is_found() -> None:
    async with crooked_server() as server:
        server.will_stream(stream(events(1, 2), then="abort"))
        async with Client(server.url) as client:
            followed = client.stream("r1")
            assert [(await anext(followed)).seq, (await anext(followed)).seq] == [1, 2]
            await server.stop()
            rest = asyncio.ensure_future(seqs(followed))
            await asyncio.sleep(0.1)  # a while in which nobody answers
            server.will_stream(stream(event(3), end(3)))
            await server.start()
            assert await rest == [3]


async def test_a_stream_left_early_frees_its_connection(server: Crooked, client: Client) -> None:
    server.will_stream(stream(events(1, 3), then="silence"))
    async with client.stream("r1") as followed:
        async for seen in followed:
            assert seen.seq == 1
            break
    assert [event async for event in followed] == []
    assert followed.cursor == 1


async def test_a_client_that_closes_takes_its_streams_along(server: Crooked) -> None:
    server.will_stream(stream(event(1), then="silence"))
    async with Client(server.url) as client:
        followed = client.stream("r1")
        assert (await anext(followed)).seq == 1
        waiting = asyncio.ensure_future(anext(followed, None))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(waiting, 2) is None


async def test_a_forgotten_stream_leaks_nothing(server: Crooked, client: Client) -> None:
    server.will_stream(stream(event(1), then="silence"))
    stream_of_run = client.stream("r1")
    async for _ in stream_of_run:
        break
    left = weakref.ref(stream_of_run)
    del stream_of_run
    gc.collect()
    assert left() is None


async def test_a_cancelled_reader_can_go_on_where_it_was(server: Crooked, client: Client) -> None:
    server.will_stream(stream(event(1), then="silence"), stream(event(2), end(2)))
    followed = client.stream("r1")
    assert (await anext(followed)).seq == 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(followed), 0.1)
    assert await seqs(followed) == [2]


async def test_an_endless_event_is_no_stream(server: Crooked, client: Client) -> None:
    server.will_stream(stream(b"data: ", *[b"x" * 100_000] * 12, then="silence"))
    with pytest.raises(UnexpectedAnswer):
        await seqs(client.stream("r1"))


async def test_the_end_of_a_long_connection_is_no_failure(
    server: Crooked, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runwire.client.stream.STEADY_S", 0.0)
    server.will_stream(*[stream(retry=b"retry: 20\n\n")] * 8, stream(event(1), end(1)))
    began = time.monotonic()
    assert await seqs(client.stream("r1", patience_s=0)) == [1]
    assert time.monotonic() - began < 2  # doubled each time it would be 5 s


async def test_an_event_of_another_name_is_passed_over(server: Crooked, client: Client) -> None:
    server.will_stream(stream(b"event: news\ndata: {}\n\n", event(1), end(1)))
    assert await seqs(client.stream("r1")) == [1]
