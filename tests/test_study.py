"""The study's page agrees with its tables, and a part of the study is compared with them."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "docs" / "study"


def script(path: str) -> ModuleType:
    """Load a Python file that belongs to no package as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_as_the_files_give_them() -> None:
    page = (ROOT / "docs" / "study.md").read_text()
    made = script("docs/study_tables.py")
    assert made.with_tables(page) == page
    for title, text in made.all_tables():
        assert made.PLACE.format(title) + text in page, title


def test_a_part_that_says_the_same_passes_and_one_that_does_not_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = script("benchmarks/study.py")
    part = tmp_path / "part"
    part.mkdir()
    lines = (TABLES / "runs.csv").read_text().splitlines()
    (part / "runs.csv").write_text("\n".join([lines[0], *lines[5:9]]))
    shutil.copy(TABLES / "verdicts.csv", part)
    assert held.main([str(TABLES), str(part)]) == 0
    assert "4 runs in both: 0 of their" in capsys.readouterr().out
    changed = lines[5].replace(",yes,", ",no,").replace(",no,supported", ",no,mixed")
    assert changed != lines[5]
    (part / "runs.csv").write_text("\n".join([lines[0], changed]))
    assert held.main([str(TABLES), str(part)]) == 1
    told = capsys.readouterr().out
    assert "solved no, in all of it yes" in told
    (part / "runs.csv").write_text("\n".join([lines[0], *lines[5:9]]))
    verdicts = (TABLES / "verdicts.csv").read_text()
    given = "double_hist 1L model.normalization=LN,H1,5,supported,"
    assert given in verdicts
    for seeds, code, said in (
        ("5", 1, "1 differ over the same seeds, 0 over fewer"),
        ("2", 0, "0 differ over the same seeds, 1 over fewer"),
    ):
        other = given.replace(",5,", f",{seeds},not ")
        (part / "verdicts.csv").write_text(verdicts.replace(given, other))
        assert held.main([str(TABLES), str(part)]) == code
        assert said in capsys.readouterr().out
    (part / "runs.csv").write_text(lines[0])
    assert held.main([str(TABLES), str(part)]) == 1  # nothing to compare with
    assert held.main([]) == 2
