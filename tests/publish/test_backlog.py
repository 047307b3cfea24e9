"""Which runs come next: in the order they were heard of, the failed ones alone, and none for ever."""

from __future__ import annotations

import pytest

from runwire.publish import backlog as module
from runwire.publish.backlog import Backlog


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def fail_alone(backlog: Backlog, run_id: str, *, times: int) -> None:
    for _ in range(times):
        assert backlog.take(10) == [run_id]
        backlog.failed([run_id])


def test_runs_come_in_the_order_they_were_heard_of_and_each_once() -> None:
    backlog = Backlog(rest_max_s=5)
    assert backlog.add(["c", "a"]) == 2
    assert backlog.add(["a", "b", "c"]) == 1
    assert len(backlog) == 3
    assert backlog.take(2) == ["c", "a"]
    assert backlog.add(["c"]) == 1
    assert backlog.take(9) == ["b", "c"]
    assert backlog.take(9) == []


def test_a_batch_that_failed_comes_back_one_by_one_until_each_went_well() -> None:
    backlog = Backlog(rest_max_s=5)
    backlog.add(["a", "b", "c"])
    backlog.failed(backlog.take(9))
    backlog.add(["new"])
    assert backlog.take(9) == ["a"]
    backlog.published(["a"])
    assert backlog.take(9) == ["b"]
    backlog.published(["b"])
    assert backlog.take(9) == ["c"]
    backlog.published(["c"])
    backlog.add(["a"])
    assert backlog.take(9) == ["new", "a"]


def test_a_failed_run_never_comes_with_others_wherever_it_stands() -> None:
    backlog = Backlog(rest_max_s=5)
    backlog.add(["bad"])
    backlog.failed(backlog.take(9))
    backlog.take(9)
    backlog.add(["a", "b", "bad", "c"])
    assert [backlog.take(9) for _ in range(3)] == [["a", "b"], ["bad"], ["c"]]


def test_a_run_that_keeps_failing_rests_longer_and_longer_up_to_a_bound(clock: Clock) -> None:
    backlog = Backlog(rest_max_s=5)
    backlog.add(["bad"])
    fail_alone(backlog, "bad", times=3)
    rests = []
    for _ in range(8):
        assert (len(backlog), backlog.add(["bad"]), backlog.take(9)) == (0, 0, [])
        began = clock.now
        while not (taken := backlog.take(9)):
            clock.now += 0.05
        rests.append(clock.now - began)
        backlog.failed(taken)
    assert rests == sorted(rests)
    assert rests[0] < 0.5
    assert rests[-1] == pytest.approx(5, abs=0.1)


def test_others_go_on_while_one_rests_and_success_forgets_its_failures(clock: Clock) -> None:
    backlog = Backlog(rest_max_s=5)
    backlog.add(["bad"])
    fail_alone(backlog, "bad", times=3)
    backlog.add(["a", "bad", "b"])
    assert backlog.take(9) == ["a", "b"]
    clock.now += 5
    assert backlog.take(9) == ["bad"]
    backlog.published(["bad"])
    backlog.add(["bad", "a"])
    assert backlog.take(9) == ["bad", "a"]


def test_a_run_may_fail_any_number_of_times() -> None:
    backlog = Backlog(rest_max_s=0.0)
    for _ in range(1100):
        backlog.add(["a"])
        backlog.failed(backlog.take(1))
    assert backlog.take(1) == ["a"]
