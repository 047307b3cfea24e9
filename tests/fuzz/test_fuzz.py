"""Readers of foreign bytes, fuzzed by coverage and by structure; `make fuzz` does it for longer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzz.targets import SEEDS, TARGETS

RUNS = 5_000


@pytest.fixture(scope="session")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[int, str]]]:
    """Fuzzes a target, in a child of one process that has made the imports: its exit code, and its words."""
    pytest.importorskip("atheris", reason="there is no atheris for this Python and system")
    folder = tmp_path_factory.mktemp("fuzz")  # where it would leave what it found
    words = folder / "words.log"
    with (
        words.open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "fuzz", "-", f"-runs={RUNS}", "-seed=1", "-max_len=4096", "-timeout=10"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as parent,
    ):
        asked, answers = parent.stdin, parent.stdout
        assert asked is not None
        assert answers is not None

        def fuzz(target: str) -> tuple[int, str]:
            said = words.stat().st_size
            asked.write(f"{target}\n")
            asked.flush()
            answer = answers.readline()
            return int(answer or -1), words.read_bytes()[said:].decode(errors="replace")[-3000:]

        yield fuzz


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_survives_inputs_that_reach_for_new_code(
    target: str, fuzzed: Callable[[str], tuple[int, str]]
) -> None:
    code, words = fuzzed(target)
    assert code == 0, words
    assert f"Done {RUNS} runs" in words


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_survives_what_it_knows_bent_a_little(target: str) -> None:
    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # by the machine's load
    @given(
        st.sampled_from(SEEDS[target]),
        st.binary(max_size=8),
        st.integers(0, 200),
        st.integers(0, 20),
        st.integers(1, 3),
    )
    @example(b"", b"", 0, 0, 1)
    def bent(seed: bytes, put_in: bytes, at: int, left_out: int, times: int) -> None:
        TARGETS[target]((seed[:at] + put_in + seed[at + left_out :]) * times)

    bent()


def test_a_target_that_raises_is_told_of(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="there is no atheris for this Python and system")
    broken = (
        "import fuzz.targets as t, runpy, sys\n"
        "def raises(data):\n"
        "    assert not data.startswith(b'0')\n"
        "t.TARGETS = {'cursor': raises}\n"
        "sys.argv = ['fuzz', 'cursor', '-runs=5000', '-seed=1']\n"
        "runpy.run_module('fuzz', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", broken],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "AssertionError" in done.stdout + done.stderr
