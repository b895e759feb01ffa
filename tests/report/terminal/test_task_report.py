"""`algomatch tasks`: what it prints for the registry, for one task, and for the check."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from algomatch.cli.main import main
from algomatch.data.registered_tasks import REGISTRY
from algomatch.infra.errors import FaultError
from algomatch.report.terminal.task_list import print_registry
from algomatch.report.terminal.task_view import check_tasks, print_task

DOCS = Path(__file__).parents[3] / "docs" / "tasks.md"
OWN = '''
from tracr.rasp import rasp

def make_first():
    """Take the first token."""
    first = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == 0).named("at_first")
    return rasp.Aggregate(first, rasp.tokens).named("first")

def make_last():
    """Not the first token at all."""
    return rasp.Aggregate(rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.EQ), rasp.tokens)

def make_wrong():
    """A share above which Tracr does not know its way."""
    is_one = rasp.numerical(rasp.Map(lambda t: 1.0 if t == 1 else 0.0, rasp.tokens).named("is_one"))
    everything = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)
    share = rasp.numerical(rasp.Aggregate(everything, is_one, default=0)).named("share")
    return rasp.Map(lambda x: x > 0.6, share).named("mostly")
'''


def console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=80), out


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def test_the_list_names_every_task_with_its_inputs_and_what_it_computes() -> None:
    screen, out = console()
    print_registry(screen)
    text = " ".join(out.getvalue().split())
    for name, row in REGISTRY.items():
        assert re.search(rf"\b{name} [\d,]+ {row.min_length}\.\.{row.max_length}", text)
        assert row.about.split(";")[0].split(",")[0].split(" ")[0] in text
    assert "reverse 1,364 1..5 2 the list backwards" in text
    assert "reverse_fixed 1,024 5..5 3 the list backwards" in text


def test_the_list_loads_neither_torch_nor_jax() -> None:
    script = (
        "import sys; from algomatch.cli.main import main; main(['tasks']); "
        "assert not {'torch', 'jax', 'transformer_lens', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("name", ["sort", "frac_prevs", "induction", "sort_unique"])
def test_one_task_is_shown_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    screen, out = console()
    print_task([f"task={name}", "task.max_length=3"], None, screen)
    text = out.getvalue()
    row = REGISTRY[name]
    assert text.startswith(f"{name}: {row.about}\n")
    assert f"\n  {name}" in text, "the output's line of the program"
    assert f"the same outputs on all {_count(name)} inputs" in text
    assert (tmp_path / f"task-{name}.png").stat().st_size > 5000
    assert f"equal to the RASP interpreter on {_count(name)} inputs" in text
    assert {"frac_prevs": "output      a number, right within 0.05"}.get(name, "output") in text
    assert ("undefined at 78.9% of the positions" in text) == (name == "induction")
    assert ("causal: no position sees a later one" in text) == row.causal
    assert ("no token twice in a list" in text) == row.unique
    *examples, picture = text.partition("examples\n")[2].splitlines()
    assert len(examples) == 6
    assert picture.startswith("graph ")


def _count(name: str) -> int:
    return {"sort_unique": 6 + 30 + 120}.get(name, 4 + 16 + 64)


def test_one_of_your_own_is_shown_with_its_counterexamples(own: Path) -> None:
    screen, out = console()
    given = ["task=own.py:make_first", "task.vocabulary=[0,1]", "task.max_length=3"]
    with pytest.raises(
        FaultError, match=r"last in task\.alternatives: computes another map than own\.first"
    ):
        print_task([*given, "task.alternatives=[make_last]"], own / "graph.svg", screen)
    text = out.getvalue()
    assert "first = aggregate(at_first, tokens)" in text
    assert "alternative last: Not the first token at all." in text
    assert "NOT THE SAME MAP: [0, 1] gives [0, 0] and [0, 1]" in text
    assert (own / "graph.svg").exists()


def test_the_check_passes_exact_programs_and_shows_sizes_and_seconds() -> None:
    screen, out = console()
    checked = check_tasks(["previous_token", "frac_prevs"], ["task.max_length=3"], screen)
    assert [check.name for check in checked] == [
        "previous_token",
        "previous_token_by_sending",
        "frac_prevs",
        "frac_prevs_by_counting",
    ]
    assert all(check.problem is None for check in checked)
    text = out.getvalue()
    assert re.search(r"^ previous_token +84 1/1/14/1 +\d+\.\d yes", text, re.M)
    assert re.search(r"^ {2}previous_token_by_sending +84 2/\d+/\d+/\d+ +\d+\.\d yes", text, re.M)
    assert re.search(r"^ frac_prevs +84 2/1/12/1 +\d+\.\d to \de-\d\d", text, re.M)
    assert "…" not in text, "nothing is cut off at 80 columns"


def test_the_check_fails_a_wrong_alternative_and_an_inexact_reference(own: Path) -> None:
    screen, out = console()
    limits = ["task.vocabulary=[0,1]", "task.max_length=3", "task.alternatives=[make_last]"]
    with pytest.raises(FaultError, match="1 of 2 programs failed the check"):
        check_tasks(["own.py:make_first"], limits, screen)
    assert "last: computes another map than own.py:make_first: [0, 1] gives" in out.getvalue()
    with pytest.raises(FaultError, match="1 of 1 programs failed the check"):
        check_tasks(["own.py:make_wrong"], limits[:2], screen)
    assert "inexact numerical MLP" in out.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["srot"], "unknown task 'srot': did you mean 'sort'?"),
        (["sort", "reverse"], "one task at a time, not sort, reverse (or add --check)"),
        (["sort", "--chekc"], "unknown option '--chekc': did you mean '--check'?"),
        (["sort", "task.max_lenght=3"], "unknown key 'task.max_lenght'"),
        (["--check", "--picture", "x.png"], "--check draws no picture"),
        (["sort", "--picture", "x.gif"], "must end in one of .png, .svg, .pdf"),
        (["nowhere.py:make"], "does not exist; give path/to/file.py:function"),
        (["--check", "task=sort"], "name the task only once: leave out 'task=sort'"),
        (["sort", "task.program=hist"], "name the task only once"),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tasks", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
