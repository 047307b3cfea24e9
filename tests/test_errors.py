"""An error is declared once; everything that shows it derives from the declaration."""

from __future__ import annotations

import subprocess
import sys
from inspect import signature
from typing import Any

import pytest

from runwire.client.problems import error_of, read_problem
from runwire.errors import DECLARED, Kind, RunwireError
from runwire.server.problems import problem_of

TYPED = {code: declared for code, declared in DECLARED.items() if declared.error is not None}
SAMPLES: dict[str, Any] = {
    "run_id": "r1",
    "detail": "a detail",
    "by": "this runId",
    "state": "failed",
    "agent": "nobody",
    "known": ("golden",),
    "held": 7,
    "scope": None,
    "constraint": "c",
    "sqlstate": None,
    "retry_after_s": 3,
}


def made(code: str) -> RunwireError:
    """An error of this code, with an attribute for every parameter of its type."""
    declared = DECLARED[code]
    assert declared.error is not None
    samples = {**SAMPLES, "code": code}
    return declared.error(**{name: samples.get(name, 5) for name in signature(declared.error).parameters})


@pytest.mark.parametrize("code", TYPED)
def test_a_client_gets_the_type_the_code_and_the_facts_that_the_server_raised(code: str) -> None:
    error = made(code)
    response = problem_of(error).response(instance="/x")
    assert isinstance(response.body, bytes)
    answer = read_problem(response.status, response.body)
    back = error_of(answer, run_id="r1", held=7, retry_after_s=3)
    if code == "value_refused":  # the constraint's name stays inside
        assert (type(back).__name__, back.code) == ("InvalidRequest", code)
        return
    assert (type(back), back.code) == (type(error), code)
    for fact in error.facts:
        assert getattr(back, fact.attribute) == getattr(error, fact.attribute), fact


@pytest.mark.parametrize("code", TYPED)
def test_an_answer_says_when_to_try_again_if_that_may_help(code: str) -> None:
    response = problem_of(made(code)).response(instance="/x")
    assert ("Retry-After" in response.headers) == DECLARED[code].kind.retry == (response.status in (429, 503))


def test_two_errors_cannot_have_one_code() -> None:
    with pytest.raises(TypeError, match="two errors have the code run_closed"):
        type("Copy", (RunwireError,), {"kind": Kind("run_closed", 409, "A copy.")})


def test_a_new_error_is_known_everywhere_once_it_is_declared() -> None:
    """In a process of its own, because a declaration lasts as long as its process."""
    script = """
from runwire.errors import ExitCode, Kind, RunwireError
from runwire.errors.kinds import RUN_ID

class RunAsleep(RunwireError):
    kind = Kind("run_asleep", 409, "The run sleeps.", counted="requests_refused")
    facts = (RUN_ID,)
    exit_code = ExitCode.NOT_FOUND

    def __init__(self, run_id):
        super().__init__(f"run {run_id} sleeps")
        self.run_id = run_id

from runwire.client.problems import error_of, read_problem
from runwire.server import openapi
from runwire.server.table import ADMIN_ROUTES
from runwire.server.docs import DocsSite
from runwire.server.problems import problem_of
from runwire.telemetry.metrics import Metrics

answer = problem_of(RunAsleep("r1")).response(instance="/x")
back = error_of(read_problem(answer.status, answer.body))
assert (answer.status, type(back), back.run_id, back.exit_code) == (409, RunAsleep, "r1", 3)
assert b'"run_asleep"' in openapi.admin_document(ADMIN_ROUTES)
assert b'requests_refused_total{code="run_asleep"} 0.0' in Metrics().exposition()[0]
assert b"The run sleeps." in DocsSite(None).content("problems").body
"""
    subprocess.run([sys.executable, "-c", script], check=True)
