"""The defects that the random histories of content must find still have a place in the source."""

from __future__ import annotations

import compileall
import shutil
from pathlib import Path

import pytest

from invariants.mutants import MUTANTS, ROOT, Mutant, main


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_of_the_source_and_can_be_read(mutant: Mutant, tmp_path: Path) -> None:
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / "src" / "runwire" / mutant.file, copy)
    mutant.infect(tmp_path)
    assert copy.read_text() != (ROOT / "src" / "runwire" / mutant.file).read_text()
    assert compileall.compile_dir(tmp_path, quiet=2)
    with pytest.raises(ValueError, match=mutant.name):
        mutant.infect(tmp_path)


def test_a_mutant_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such"]) == 2
    assert "no such mutant: no-such" in capsys.readouterr().err
