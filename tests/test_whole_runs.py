"""A run folder is enough for every analysis, and every printed command can be run."""

from __future__ import annotations

import html
import io
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout
from pathlib import Path

import pytest
from support.programs import LARGER, LARGER_YAML, write_program

from algomatch.analysis.measures.registered_measures import measured
from algomatch.cli.main import main
from algomatch.config.composition import compose
from algomatch.data.inputs import input_set
from algomatch.data.tasks import make_task
from algomatch.runs.control_record import failing
from algomatch.runs.run_folder import RunFolder

Capture = pytest.CaptureFixture[str]
HOME = "it's [a] home"  # characters that a shell interprets unless they are quoted
SETTINGS = (
    "task.vocabulary=[0,1,2]", "task.max_length=3", "model=1L", "model.d_model=8",
    "model.n_heads=2", "trainer.max_steps=10", "trainer.checkpoints=2", "analysis.bootstrap=20",
    "analysis.random_inits=1", "analysis.match_cases=40", "analysis.match_checkpoint_cases=40",
    "analysis.circuit_cases=20", "analysis.other_tasks=0", "analysis.measures=[accuracy]",
    "tracking=disabled",
)  # fmt: skip
SMALL = ("model=1L", "model.d_model=8", "model.n_heads=2", "trainer.max_steps=20",
         "analysis.bootstrap=20", "analysis.random_inits=1", "analysis.other_tasks=1")  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of a user's program that imports a file beside it, and its output."""
    home, out = tmp_path_factory.mktemp("whole") / HOME, io.StringIO()
    helper = "from tracr.rasp import rasp\n\nGREATER = rasp.Comparison.GT\n"
    write_program(home / "user", "helper_of_ranks", helper)
    text = LARGER.replace("rasp.Comparison.GT", "helper_of_ranks.GREATER")
    write_program(home / "user", "ranks", f"import helper_of_ranks\n{text}", LARGER_YAML)
    arguments = ["train", "task=user/ranks.py:make_larger", *SETTINGS, "run_dir=the runs/one"]
    with chdir(home), redirect_stdout(out):
        assert main(arguments) == 0
    shutil.rmtree(home / "user")
    return home, out.getvalue()


@pytest.fixture
def home(trained: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the run alone, in another place and without the user's folder."""
    shutil.copytree(trained[0] / "the runs", tmp_path / HOME / "the runs")
    return tmp_path / HOME


def in_text(text: str) -> list[list[str]]:
    """The commands in a text, as a shell reads them: between backticks, or at a line's end."""
    matches = re.findall(r"`(algomatch [^\n]*?)`(?!\w)|(?:\S  +)(algomatch [^\n]*)", text)
    return [shlex.split(quoted or other) for quoted, other in matches]


def in_page(page: Path) -> list[list[str]]:
    """The commands on a page, as a shell reads them, each once."""
    text = page.read_text()
    lines = "\n".join(re.findall(r"<code>(algomatch .*?)</code>", text, re.DOTALL)).splitlines()
    prose = re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", "", text, flags=re.DOTALL)
    words = [shlex.split(line) for line in map(html.unescape, lines)]
    return [
        [*command] for command in dict.fromkeys(map(tuple, words + in_text(html.unescape(prose))))
    ]


def run_all(commands: Sequence[Sequence[str]], home: Path) -> None:
    for words in commands:
        with chdir(home):
            assert main(words[1:]) == 0, words


def check_controls(words: Sequence[str], folder: RunFolder) -> None:
    """The advised controls use the run's own inputs, because verdicts are kept by inputs."""
    config = compose(words[2:])
    assert input_set(make_task(config.task), config.task).digest() == folder.inputs_digest
    assert config.task.name == folder.config.task.name


def test_the_commands_at_the_end_of_a_run_can_be_run_as_they_are_printed(
    trained: tuple[Path, str], capsys: Capture
) -> None:
    home, out = trained
    commands = in_text(out)
    assert [words[1] for words in commands] == ["controls", "analyze"]
    with chdir(home):
        check_controls(commands[0], RunFolder.open(Path("the runs/one")))
    run_all(commands[1:], home)
    assert "equal the recorded ones exactly" in " ".join(capsys.readouterr().out.split())


def test_a_run_is_analysed_from_its_folder_alone(home: Path, capsys: Capture) -> None:
    run = "the runs/one"
    files = {str(path.relative_to(home / run)) for path in (home / run).rglob("*.py")}
    assert files == {"program/ranks.py", "program/helper_of_ranks.py"}
    with chdir(home):
        assert main(["analyze", f"{run}/checkpoints/step-00000010"]) == 0
        assert main(["train", "--resume", run]) == 0
        assert main(["report", run, "-o", "page.html"]) == 0
        assert main(["explain", "--reference", run]) == 0
        assert main(["match", run, "--no-sides"]) == 0
    page = (home / "page.html").read_text()
    assert "larger_by_pairs" in page
    assert "can no longer be loaded" not in page
    capsys.readouterr()


def test_a_checkpoint_without_its_run_says_what_it_needs(home: Path, capsys: Capture) -> None:
    shutil.copytree(home / "the runs/one/checkpoints/step-00000010", home / "alone")
    for command in ("analyze", "match", "circuit", "explain"):
        assert main([command, str(home / "alone")]) == 2
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1
        assert "give the checkpoint in its run folder" in printed.err


def test_the_commands_of_a_page_are_of_the_run_and_its_inputs(home: Path, capsys: Capture) -> None:
    with chdir(home):
        assert main(["report", "the runs/one", "-o", "page.html"]) == 0
        commands = in_page(home / "page.html")
        by_name = {words[1]: words for words in commands}
        assert by_name.keys() == {"train", "match", "explain", "circuit", "controls"}
        for words in commands:
            assert words[1] in ("train", "controls") or words[2] == "the runs/one"
        folder = RunFolder.open(Path("the runs/one"))
        check_controls(by_name["controls"], folder)
        assert by_name["train"][2] == "--config"
        again = compose(by_name["train"][4:], by_name["train"][3])
        assert {"accuracy", "sparsity", "attention"} < {*measured(again.analysis)}
        assert again.run_dir is None
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_command_of_a_page_runs_and_then_nothing_is_lacking(
    home: Path, capsys: Capture
) -> None:
    run = "the runs/one"
    with chdir(home):
        assert main(["report", run, "-o", "page.html"]) == 0
    commands = in_page(home / "page.html")
    small = [[*words, *(SMALL if words[1] == "controls" else ())] for words in commands]
    run_all(small, home)
    digest = RunFolder.open(home / run).inputs_digest
    assert failing(digest) is not None, "the controls of this very task were run"
    [again] = [path for path in (home / "runs").iterdir() if path.name != "controls"]
    assert RunFolder.open(again).inputs_digest == digest
    shutil.rmtree(home / run)  # it also works alone
    run_all([["algomatch", name, *more, str(again)] for name, *more in (
        ["analyze"], ["match", "--all"], ["explain"], ["circuit"], ["report", "-o", "again.html"],
    )], home)  # fmt: skip
    left = in_page(home / "again.html")
    assert not left, left
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_runs_of_programs_of_one_name_are_each_matched_with_their_own(
    tmp_path: Path, capsys: Capture
) -> None:
    user = tmp_path / HOME / "user"
    for seed, sign in enumerate(("GT", "LT")):
        write_program(user, "helper_of_ranks", f"from tracr.rasp import rasp\n\nSIGN = "
                      f"rasp.Comparison.{sign}\n")  # fmt: skip
        text = LARGER.replace("rasp.Comparison.GT", "helper_of_ranks.SIGN")
        if sign == "LT":
            text = text.replace("key > query", "key < query")
        write_program(user, "ranks", f"import helper_of_ranks\n{text}", LARGER_YAML)
        arguments = [f"task={user}/ranks.py:make_larger", *SETTINGS, f"seed={seed}"]
        with chdir(tmp_path / HOME):
            assert main(["train", *arguments, f"run_dir=runs/{seed}"]) == 0
    shutil.rmtree(user)
    with chdir(tmp_path / HOME):
        assert main(["match", "runs", "--no-sides", "--jobs", "1"]) == 0
        assert main(["report", "runs", "-o", "page.html", "--tables", "tables"]) == 0
        said = capsys.readouterr().out
        for words in in_text(re.sub(r": (algomatch .*)", r"  \1", said)):
            assert all(not word.startswith("runs") or Path(word).exists() for word in words)
    digests = {RunFolder.open(tmp_path / HOME / "runs" / n).inputs_digest for n in ("0", "1")}
    assert len(digests) == 2
    assert os.listdir(tmp_path / HOME / "tables")
