"""The command: what it refuses, in one line and without leftovers, and what it prints."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from rich.console import Console
from safetensors import safe_open

from algomatch import __version__
from algomatch.api.train import train
from algomatch.cli.main import VERBS, command_line, main
from algomatch.config.composition import compose, to_yaml
from algomatch.runs.checkpoints import ROWS
from algomatch.runs.places import WEIGHTS, find_checkpoint
from algomatch.runs.run_folder import RunFolder
from algomatch.runs.sweep_cells import plan

SMALL = (
    "task.vocabulary=[a,b]", "task.max_length=3", "model=1L", "model.d_model=8", "model.n_heads=2",
    "trainer.max_steps=3", "trainer.checkpoints=2", "trainer.accelerator=cpu",
    "analysis.bootstrap=20", "analysis.random_inits=1", "tracking=disabled",
)  # fmt: skip
LAST = "checkpoints/step-00000003"
THERE = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps; tests damage copies of it."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    config = compose([*SMALL, f"run_dir={path}"])
    train(config, Console(file=io.StringIO()))
    return path


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """An empty working folder."""
    with chdir(tmp_path):
        yield tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files too; None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refused(capsys: Capture, here: Path, code: int, *arguments: str) -> str:
    """Run a command that must be refused in one line and change nothing; return the line."""
    before = contents(here)
    exit_code = main(arguments)
    printed = capsys.readouterr()
    assert (exit_code, printed.out) == (code, "")
    assert contents(here) == before
    return one_line(printed.err)


def one_line(stderr: str) -> str:
    """The only line of an error output; it must be a message, not a traceback."""
    assert stderr.startswith("algomatch: ")
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1
    assert "Traceback" not in stderr
    return stderr.removeprefix("algomatch: ").rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("train tsak=reverse", ["'tsak'", "did you mean 'task'?", "valid keys: analysis, model"]),
        ("train task=revers", ["unknown task 'revers'", "did you mean 'reverse'?", "valid: "]),
        ("train model=5L", ["unknown model '5L'", "valid: 1L, 1L_attn_only, 2L, "]),
        (
            "train analysis.measures=[acuracy]",
            ["'acuracy' (analysis.measures)", "did you mean 'accuracy'?", "valid: ", "similarity"],
        ),
        ("train trainer.max_steps=0", ["trainer.max_steps=0 must be at least 1"]),
        ("train seed=${nope}", ["argument 'seed=${nope}' cannot be read"]),
        ("train reverse", ["argument 'reverse' is not of the form key=value"]),
        ("train --config nope.yaml", ["config file 'nope.yaml' does not exist"]),
        ("train --config .", ["config file '.' is a folder; give a YAML or JSON file"]),
        ("train --config", ["--config: expected one argument", "--help"]),
        ("train task.min_length=9", ["task.min_length=9 must not exceed task.max_length=5"]),
        ("train task.vocabulary=[a]", ["task.vocabulary=[a] must have at least 2 tokens"]),
        ("train task.vocabulary=[a,a]", ["task.vocabulary=[a, a] must not repeat a token"]),
        ("train task.vocabulary=[a, b, a]", ["task.vocabulary=[a, b, a] must not repeat a token"]),
        ("train seed=1 task.vocabulary=[-1, -1] --config x", ["config file 'x' does not exist"]),
        ("train --config x task.vocabulary=[a, b]", ["config file 'x' does not exist"]),
        ("train task.vocabulary=[a,", ["bracket is not closed: quote a list, as in 'task.vocab"]),
        ("train task.vocabulary=[a, b seed=1", ["'task.vocabulary=[a, b' cannot be read: its br"]),
        ("train task.vocabulary=['1',1]", ["task.vocabulary=[1, 1] must not repeat a token"]),
        ("train task.vocabulary=[a,BOS]", ["must not hold the reserved BOS"]),
        ("train task.vocabulary=[a,null]", ["tokens must be strings or numbers"]),
        ("train task.vocabulary=[.nan,1]", ["a token must not be nan"]),
        ("train task.max_inputs=2", ["task.max_inputs=2 must be at least", "lengths, 5"]),
        ("train task.held_out_lengths=[9]", ["task.held_out_lengths=[9]", "lengths 1 to 5"]),
        (
            "train task.held_out_lengths=[1,2,3,4,5]",
            ["held_out_lengths=[1, 2, 3, 4, 5] leaves no length to train on"],
        ),
        ("train run_dir=.", ["run folder '.' exists", "another run_dir", "train --resume ."]),
        ("train --resume nope", ["'nope' does not exist"]),
        ("train --resume .", ["'.' is not a run folder", "no config.yaml and run.json"]),
        ("train --resume . seed=1", ["--resume uses the run's own config"]),
        ("train seed=1 --resume .", ["--resume uses the run's own config"]),
        ("train --resume . --config x", ["--resume uses the run's own config"]),
        ("train --resme .", ["unknown option '--resme': did you mean '--resume'?"]),
        ("sweep x --jobs y", ["--jobs y must be a whole number", "algomatch sweep --help"]),
        ("sweep x --jobs 1 --jobs 2", ["--jobs is given twice"]),
        ("train --foo", ["unknown option '--foo'", "--config, --help, --resume"]),
        ("--foo train", ["unknown option '--foo'"]),
        ("trian", ["unknown command 'trian': did you mean 'train'? valid: analyze, circuit"]),
        ("", ["no command is given; valid: analyze, circuit", "--help"]),
        ("analyze", ["analyze takes one checkpoint, not none"]),
        ("analyze nope", ["checkpoint 'nope' does not exist", "model.safetensors, its folder"]),
        ("analyze .", ["'.' has no checkpoint", "or a run folder"]),
        ("analyze . more", ["analyze takes one checkpoint, not . more"]),
        ("analyze . --foo", ["unknown option '--foo'", "--all, --device, --help, --output"]),
    ],
)
def test_a_mistake_is_named_with_its_rule_and_choices(
    capsys: Capture, here: Path, arguments: str, parts: list[str]
) -> None:
    line = refused(capsys, here, 2, *arguments.split())
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.batch_size=2", ["trainer.batch_size=2 must be at least 3", "each trained"]),
        *(
            (f"trainer.accelerator={name}", [f"trainer.accelerator={name} is not", "valid: auto"])
            for name, there in THERE.items()
            if not there
        ),
        *(
            (f"analysis.device={name}", [f"analysis.device={name} cannot be used here", said])
            for name, said in (
                ("cuda:99", "cpu always can"),
                ("cuda:x", "did you mean 'cuda:1'? valid: cpu, cuda, cuda:1, mps, xpu"),
                ("foo", "valid: cpu, cuda, cuda:1, mps, xpu"),
                ("meta", "valid: cpu"),
                ("vulkan", "valid: cpu"),
            )
        ),
    ],
)
def test_what_this_machine_or_task_cannot_do_is_refused_before_a_run_folder_is_made(
    capsys: Capture, here: Path, override: str, parts: list[str]
) -> None:
    line = refused(capsys, here, 2, "train", *SMALL, override)
    for part in parts:
        assert part in line
    assert len(line) < 400


OWN = """\
from tracr.rasp import rasp

number = 5


def make_odd():
    return rasp.Map(lambda t: t % 2 == 1, rasp.tokens).named("odd")


def make_for(length):
    return rasp.tokens


def make_text():
    return "tokens"


def make_nothing():
    pass


def make_mistake():
    return rasp.Map(lambda t: t)


def make_inverse():
    return rasp.Map(lambda t: 6 // (t - 1), rasp.tokens).named("inverse")


def make_only_pairs():
    positions = {0: "first", 1: "second"}
    return rasp.Map(lambda index: positions[index], rasp.indices).named("only_pairs")


def make_seven():
    return rasp.Map(lambda t: 7, rasp.tokens).named("seven")


def make_undefined():
    nobody = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.FALSE)
    return rasp.Aggregate(nobody, rasp.tokens).named("undefined")


def make_sum():
    share = rasp.numerical(rasp.Map(lambda token: token / 2, rasp.tokens))
    return rasp.SequenceMap(lambda x, i: x + i, share, rasp.indices).named("later")


def make_infinite():
    return rasp.numerical(rasp.Map(lambda t: float("inf") if t else 0.0, rasp.tokens))


def is_short(tokens):
    return len(tokens) < tokens.limit


def is_nothing(tokens):
    return False
"""
CHOICES = "valid: is_nothing, is_short, make_for, make_inf"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("task=nope.py:make_odd", ["program file '", "nope.py' does not exist", "file.py:functio"]),
        ("task=folder.py:make_odd", ["folder.py' is a folder; give path/to/file.py:function"]),
        ("task=own.py:make_od", ["own.py' has no function 'make_od'", "mean 'make_odd'?", CHOICES]),
        ("task=own.py:number", ["own.py' has no function 'number'", CHOICES]),
        ("task=own.py", ["own.py': name the function too, as in ", "own.py:make_odd"]),
        ("task=empty.py:make_x", ["empty.py' has no function 'make_x', and no other function"]),
        ("task=empty.py", ["empty.py': name the function too, as in ", "empty.py:make_it"]),
        ("task=broken.py:make_x", ["broken.py' cannot be imported (line 2): SyntaxError: "]),
        ("task=raises.py:make_x", ["raises.py' cannot be imported (line 3): ValueError: not"]),
        ("task=exits.py:make_x", ["exits.py' cannot be imported (line 2): SystemExit: 3"]),
        ("task=needs.py:make_x", ["needs.py' cannot be imported (line 1): ModuleNotFoundError: "]),
        (
            "task=own.py:make_for",
            [
                "'make_for' takes the argument 'length'",
                "only take vocabulary, min_length, max_length",
            ],
        ),
        ("task=own.py:make_text", ["'make_text' returned a str: it must return an s-op"]),
        ("task=own.py:make_nothing", ["returned None: it must return an s-op"]),
        ("task=own.py:make_mistake", ["'make_mistake' raises (line 23): TypeError: "]),
        (
            "task=own.py:make_sum",
            [
                "task 'own.sum': Tracr cannot compile the program: 'later' is a sequence map that "
                "reads a number; write rasp.numerical(rasp.LinearSequenceMap(x, y, a, b)) "
            ],
        ),
        (
            "task=own.py:make_inverse",
            ["task 'own.inverse': the program raises on the input [1]: ZeroDivisionError"],
        ),
        (
            "task=own.py:make_only_pairs",
            ["the program raises on the input [0, 0, 0]: KeyError: 2", "what task.restrict lets"],
        ),
        (
            "task=own.py:make_odd task.vocabulary=[a,b]",
            ["the program raises on the input ['a']: TypeError", "change the program, task.vocab"],
        ),
        ("task=own.py:make_seven", ["'own.seven': the program's output is 7 on every input"]),
        ("task=own.py:make_undefined", ["output is undefined on every input: there is nothing to"]),
        ("task=own.py:make_infinite", ["inf", "not a finite number"]),
        (
            "task=own.py:make_odd task.restrict=foo",
            ["task.restrict=foo", CHOICES, "unique", "none"],
        ),
        ("task=reverse task.restrict=foo", ["task.restrict=foo: valid: none, unique, or path/to"]),
        ("task=reverse task.restrict=uniqe", ["task.restrict=uniqe: did you mean 'unique'?"]),
        (
            "task=own.py:make_odd task.restrict=is_short",
            ["task.restrict=is_short raises on [0] (line 54): AttributeError: 'list' object"],
        ),
        (
            "task=own.py:make_odd task.restrict=is_nothing",
            ["task 'own.odd': task.restrict accepts no input at all"],
        ),
        (
            "task=own.py:make_odd task.restrict=unique task.max_length=4",
            ["task.max_length=4 must not exceed the 2 tokens", "(task.restrict=unique)"],
        ),
        ("task=own.py:make_odd task.tolerance=0", ["task.tolerance=0.0 must be above 0, or null"]),
        (
            "task=own.py:make_odd task.tolerance=-1",
            ["task.tolerance=-1.0 must be above 0, or null"],
        ),
        (
            "task=own.py:make_odd task.held_out_lengths=[4]",
            ["task.held_out_lengths=[4] must be among the lengths 1 to 3"],
        ),
        (
            "task=own.py:make_odd task.vocabulary=null",
            [
                "task 'own.odd' needs a vocabulary, as in 'task.vocabulary=[0,1,2]'",
                "own.yaml besi",
            ],
        ),
        ("task=own.py:make_odd task.alternatives=[make_ood]", ["'make_ood': did you mean 'make_"]),
        ("task=reverse task.alternatives=[sorted]", ["unknown program 'sorted' (task.alternativ"]),
        (
            "task=frac_prev",
            ["unknown task 'frac_prev': did you mean 'frac_prevs'?", "file.py:func"],
        ),
        ("task=own.make_odd", ["unknown task 'own.make_odd': ", "or path/to/file.py:function"]),
        (
            "task=with_yaml.py:make_x",
            ["unknown key 'task.tolerence' (", "with_yaml.yaml): did you"],
        ),
    ],
)
def test_a_mistake_in_a_program_of_ones_own_is_one_line(
    capsys: Capture, here: Path, arguments: str, parts: list[str]
) -> None:
    files = {
        "own.py": OWN, "empty.py": "", "broken.py": "x = 1\ndef make_x(:\n    pass\n",
        "raises.py": "def make_x(text):\n    return int(text)\nraise ValueError('not\\nnow')\n",
        "exits.py": "import sys\nsys.exit(3)\n", "needs.py": "import no_such_module\n",
        "with_yaml.py": OWN, "with_yaml.yaml": "tolerence: 0.1\n",
    }  # fmt: skip
    (here / "folder.py").mkdir()
    for name, text in files.items():
        (here / name).write_text(text)
    small = [override for override in SMALL if not override.startswith("task.")]
    task = ["task.vocabulary=[0,1]", "task.max_length=3"]
    line = refused(capsys, here, 2, "train", *small, *task, *arguments.split())
    for part in parts:
        assert part in line
    assert len(line) < 900


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("train run_dir=file/run", ["cannot make the run folder 'file/run'", "File exists"]),
        ("train runs_dir=file", ["cannot make the run folder 'file'", "File exists"]),
        ("train run_dir=" + 300 * "x", ["cannot look for the run folder", "File name too long"]),
        ("train --resume " + 300 * "x", ["cannot look for the run folder", "File name too long"]),
        ("train --config file/x", ["cannot read config file 'file/x': Not a directory"]),
        ("analyze " + 300 * "x", ["cannot look for the checkpoint", "File name too long"]),
        ("match " + 300 * "x", ["cannot look for", "File name too long"]),
        ("report " + 300 * "x", ["cannot look for runs in", "File name too long"]),
    ],
)
def test_a_fault_of_the_file_system_has_exit_code_1(
    capsys: Capture, here: Path, arguments: str, parts: list[str]
) -> None:
    (here / "file").write_text("in the way")
    given = arguments.split()
    small = [] if given[1].startswith("--") or given[0] != "train" else SMALL
    line = refused(capsys, here, 1, *given, *small)
    for part in parts:
        assert part in line


def test_an_existing_run_folder_is_not_touched(capsys: Capture, finished_run: Path) -> None:
    line = refused(capsys, finished_run, 2, "train", *SMALL, f"run_dir={finished_run}")
    assert f"run folder '{finished_run}' exists" in line
    assert f"`algomatch train --resume {finished_run}`" in line


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def foreign(content: bytes) -> bytes:
    return safetensors.torch.save({"w": torch.zeros(3)}, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda content: b"", "is not a whole safetensors file"),
        (lambda content: bytes(range(256)) * 20, "is not a whole safetensors file"),
        (truncated, "is not a whole safetensors file (truncated, or of another kind)"),
        (foreign, "is a safetensors file, but not a checkpoint of algomatch"),
        (flipped, "is damaged: its weights differ from their checksum"),
    ],
    ids=["empty", "random", "truncated", "foreign", "flipped"],
)
def test_a_file_that_is_no_whole_checkpoint_is_refused(
    capsys: Capture,
    here: Path,
    finished_run: Path,
    damage: Callable[[bytes], bytes],
    text: str,
) -> None:
    content = (finished_run / LAST / WEIGHTS).read_bytes()
    (here / WEIGHTS).write_bytes(damage(content))
    for path in (WEIGHTS, "."):
        assert f"'{WEIGHTS}' {text}" in refused(capsys, here, 2, "analyze", path)


def rewrite_header(source: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Copy a checkpoint's weights with another header."""
    with safe_open(source, framework="pt") as opened:
        header = json.loads(opened.metadata()["algomatch"])
    weights = safetensors.torch.load_file(source)
    change(header)
    target.write_bytes(safetensors.torch.save(weights, {"algomatch": json.dumps(header)}))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda h: h.pop("weights_digest"), "the header of checkpoint 'x' is damaged: "),
        (lambda h: h.update(step="soon"), "the header of checkpoint 'x' is damaged: "),
        (lambda h: h.update(format=99), "checkpoint 'x' has format 99, but this version reads"),
        (lambda h: h["config"].update(sed=1), "unknown key 'sed' (x): did you mean 'seed'?"),
        (lambda h: h["config"].update(seed=-1), "seed=-1 must be at least 0"),
        (
            lambda h: h["config"]["model"].update(d_model=16),
            "checkpoint 'x': its weights do not fit its own config",
        ),
    ],
    ids=["no digest", "step", "format", "unknown key", "bad value", "other shape"],
)
def test_a_checkpoint_with_another_header_is_refused(
    capsys: Capture,
    here: Path,
    finished_run: Path,
    change: Callable[[dict[str, Any]], object],
    text: str,
) -> None:
    rewrite_header(finished_run / LAST / WEIGHTS, here / "x", change)
    assert refused(capsys, here, 2, "analyze", "x").startswith(text)


@pytest.mark.parametrize("damage", [truncated, flipped], ids=["truncated", "flipped"])
def test_a_damaged_record_beside_a_good_checkpoint_is_a_fault(
    capsys: Capture, here: Path, finished_run: Path, damage: Callable[[bytes], bytes]
) -> None:
    shutil.copytree(finished_run / LAST, here / "step")
    record = here / "step" / ROWS
    record.write_bytes(damage(record.read_bytes()))
    line = refused(capsys, here, 1, "analyze", "step")
    assert line == f"the measurements in 'step/{ROWS}' differ from their checksum"


def test_a_checkpoint_measures_the_same_again(
    capsys: Capture, here: Path, finished_run: Path
) -> None:
    assert main(["analyze", str(finished_run), "--output", "all.csv"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "measurements equal the recorded ones exactly" in " ".join(printed.out.split())
    again = list(csv.DictReader((here / "all.csv").read_text().splitlines()))
    recorded = csv.DictReader((finished_run / LAST / ROWS).read_text().splitlines())
    assert again == [row for row in recorded if not row["measure"].startswith("training/")]
    assert len(again) > 20


def test_a_checkpoint_alone_is_enough(capsys: Capture, here: Path, finished_run: Path) -> None:
    shutil.copy(finished_run / LAST / WEIGHTS, here / "sent.safetensors")
    assert main(["analyze", "sent.safetensors"]) == 0
    assert (
        "the checkpoint is not in a run folder, so there are no recorded measurements to compare "
        "with" in " ".join(capsys.readouterr().out.split())
    )
    assert list(contents(here)) == ["sent.safetensors"]


@pytest.mark.parametrize("output", [".", "missing/all.csv"])
def test_an_output_that_cannot_be_written_is_a_fault(
    capsys: Capture, here: Path, finished_run: Path, output: str
) -> None:
    assert main(["analyze", str(finished_run), "--output", output]) == 1
    line = one_line(capsys.readouterr().err)
    assert line.startswith(f"cannot write '{output}'")
    assert contents(here) == {}


def test_a_difference_and_a_file_that_cannot_be_written_are_both_told(
    capsys: Capture, here: Path, finished_run: Path
) -> None:
    shutil.copytree(finished_run / LAST, here / "step")
    record = (here / "step" / ROWS).read_text().replace("ablation/", "other/")
    (here / "step" / ROWS).write_text(record)

    def sign(header: dict[str, Any]) -> None:
        header["rows_digest"] = hashlib.sha256(record.encode()).hexdigest()

    rewrite_header(finished_run / LAST / WEIGHTS, here / "step" / WEIGHTS, sign)
    assert main(["analyze", "step", "--output", "/proc/x.csv"]) == 1
    line = one_line(capsys.readouterr().err)
    assert "measurements differ from the record" in line
    assert "cannot write '/proc/x.csv'" in line


def test_a_copy_of_a_checkpoint_is_no_checkpoint_of_the_run(here: Path, finished_run: Path) -> None:
    run = Path(shutil.copytree(finished_run, here / "run"))
    for name in ("-old", ".bak"):
        shutil.copytree(run / LAST, run / f"{LAST}{name}")
    before = RunFolder.open(finished_run)
    folder = RunFolder.open(run)
    names = [path.name for path in before.checkpoint_folders()]
    assert [path.name for path in folder.checkpoint_folders()] == names
    assert folder.measurements() == before.measurements()
    assert find_checkpoint(run) == run / LAST / WEIGHTS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_finished_sweep_needs_no_device(capsys: Capture, here: Path, finished_run: Path) -> None:
    (here / "one.yaml").write_text("method: grid\nparameters: {seed: {values: [0, 1]}}\n")
    given = ["sweep", "one.yaml", *SMALL, "analysis.device=cuda", "--output", "runs"]
    cells = plan(Path("one.yaml"), given[2:-2], Path("runs")).cells
    for cell in cells:
        shutil.copytree(finished_run, cell.folder)
        (cell.folder / "config.yaml").write_text(to_yaml(cell.config))
    assert main(given) == 0
    assert "2 finished" in capsys.readouterr().out
    assert main([*given, "--index", "1"]) == 0
    (cells[1].folder / "finished.json").unlink()
    for more, code in (((), 2), (("--index", "1"), 2), (("--index", "0"), 0)):
        assert main([*given, *more]) == code
        assert ("analysis.device=cuda cannot be used" in capsys.readouterr().err) == (code == 2)


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run, as it was before its end."""
    shutil.copytree(run, folder / "run")
    (folder / "run" / "finished.json").unlink()
    return folder / "run"


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("run.json", "", "'run/run.json' is damaged: "),
        ("run.json", "{}", "'run/run.json' is damaged: "),
        ("run.json", "[1]", "'run/run.json' is damaged: "),
        ("config.yaml", "sed: 1\n", "unknown key 'sed' (run/config.yaml): did you mean 'seed'?"),
        ("config.yaml", "seed: -1\n", "seed=-1 must be at least 0"),
        ("config.yaml", "a: [\n", "config file 'run/config.yaml' is not valid YAML or JSON: "),
    ],
)
def test_a_damaged_run_folder_is_not_resumed(
    capsys: Capture, here: Path, finished_run: Path, name: str, content: str, text: str
) -> None:
    (copied(finished_run, here) / name).write_text(content)
    assert refused(capsys, here, 2, "train", "--resume", "run").startswith(text)


@pytest.mark.parametrize(
    "mark", [None, "{", *(pytest.param(text, marks=pytest.mark.slow) for text in ("[]", "{}"))]
)
def test_resuming_a_finished_run_says_so_and_a_damaged_mark_does_not_stop_it(
    capsys: Capture, here: Path, finished_run: Path, mark: str | None
) -> None:
    shutil.copytree(finished_run, here / "run")
    if mark is not None:
        (here / "run" / "finished.json").write_text(mark)
    assert main(["train", "--resume", "run"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert ("'run' finished at step 3 (max_steps)" in printed) == (mark is None)
    ended = json.loads((here / "run" / "finished.json").read_text())
    assert ended == {"step": 3, "reason": "max_steps"}


def test_the_version_is_printed(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        arguments, cwd=cwd, env=dict(os.environ), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_help_is_there_at_once(here: Path) -> None:
    done = command(sys.executable, "-X", "importtime", "-m", "algomatch", "--help", cwd=here)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: algomatch")
    for part in ("train", "analyze", "algomatch train --resume runs/RUN"):
        assert part in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "algomatch.cli.main" in imported
    assert not {"torch", "jax", "numpy", "transformer_lens", "wandb", "omegaconf"} & imported


def test_the_help_of_a_verb_is_there_at_once(here: Path) -> None:
    program = (
        "import sys, time; from algomatch.cli.main import VERBS, main\n"
        "for verb in VERBS: assert main([verb, '--help']) == 0\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
        "print(time.process_time(), file=sys.stderr)"
    )
    done = command(sys.executable, "-c", program, cwd=here)
    imported, seconds = done.stderr.splitlines()
    assert not {"torch", "numpy", "wandb", "omegaconf"} & set(imported.split())
    assert float(seconds) < 1  # of CPU, for all of them
    said = " ".join(done.stdout.split())
    for verb, given in VERBS.items():
        assert f"Usage: algomatch {verb} {given}" in said
    for verb in ("match", "circuit", "explain", "subspaces", "analyze"):
        assert "[analysis.KEY=VALUE ...]" in VERBS[verb]
    assert "--no-sides" in done.stdout


def test_the_console_script_refuses_as_python_does(here: Path) -> None:
    script = Path(sys.executable).parent / "algomatch"
    done = command(str(script), "train", "tsak=reverse", cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown key 'tsak'" in one_line(done.stderr)
    assert contents(here) == {}


@pytest.mark.parametrize(
    "arguments",
    ["train trainer.accelerator=gpu", "controls analysis.device=cuda", "analyze x --device cuda"],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_before_all_but_torch_is_imported(
    here: Path, arguments: str
) -> None:
    program = (
        "import sys; from algomatch.cli.main import main; code = main(sys.argv[1:]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules})); sys.exit(code)"
    )
    done = command(sys.executable, "-c", program, *arguments.split(), cwd=here)
    assert done.returncode == 2
    assert "=gpu is not available here" in done.stderr or "=cuda cannot be used" in done.stderr
    heavy = {"pytorch_lightning", "transformer_lens", "jax", "wandb", "matplotlib", "scipy"}
    imported = {*done.stdout.split()}
    assert "torch" in imported
    assert not heavy & imported
    assert contents(here) == {}


def test_what_was_computed_is_shown_before_a_file_that_cannot_be_written_is_named(
    capsys: Capture, finished_run: Path
) -> None:
    for arguments, last in (
        (("tasks", "task=reverse", "task.vocabulary=[a,b]", "--picture", "/proc/x.png"), "  ->  "),
        (("analyze", str(finished_run), "--output", "/proc/x.csv"), "equal the recorded ones"),
    ):
        assert main(arguments) == 1
        printed = capsys.readouterr()
        assert last in printed.out.splitlines()[-1]
        assert "'/proc/x." in one_line(printed.err)


@pytest.mark.parametrize(
    ("arguments", "following"),
    [
        ("train --resume RUN", "algomatch match RUN"),
        ("compare RUN --output out", "algomatch report RUN"),
        ("report RUN --output page.html", "python -m webbrowser file://HERE/page.html"),
        (
            "tasks sort task.vocabulary=[1,2] task.max_length=2",
            "algomatch train task=sort 'task.vocabulary=[1,2]' task.max_length=2",
        ),
    ],
)
def test_a_command_ends_with_what_to_do_next(
    arguments: str, following: str, capsys: Capture, here: Path, finished_run: Path
) -> None:
    assert main(arguments.replace("RUN", str(finished_run)).split()) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    expected = following.replace("RUN", str(finished_run)).replace("HERE", str(here))
    assert line == f"next: {expected}"
    program, *words = shlex.split(expected)
    if program == "algomatch":
        command_line().parse_args(words, exit_on_error=False, print_error=False)


def test_a_program_that_a_runs_task_lacks_is_answered_at_once(here: Path) -> None:
    weights = here / "run" / "checkpoints" / "step-00000001" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    (here / "run" / "run.json").write_text("{}")
    (here / "run" / "config.yaml").write_text("task: {name: sort}")
    program = (
        "import sys; from algomatch.cli.main import main; main(sys.argv[1:]); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    for given in (
        "match run --programs reverse",
        "subspaces run/checkpoints/step-00000001 --program revers",
    ):
        done = command(sys.executable, "-c", program, *given.split(), cwd=here)
        assert "of sort: valid: sort, sort_by_counting" in one_line(done.stderr)
        assert not HEAVY & set(done.stdout.split())


HEAVY = {
    "torch", "tracr", "transformer_lens", "wandb", "jax", "haiku", "pytorch_lightning", "numpy",
    "matplotlib", "sklearn",
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("trian task=reverse", "unknown command 'trian': did you mean 'train'?"),
        ("train --resme RUN", "unknown option '--resme': did you mean '--resume'?"),
        ("train tsak=reverse", "unknown key 'tsak' (command line): did you mean 'task'?"),
        ("train model.heads=4", "unknown key 'model.heads'"),
        ("train task=revers", "unknown task 'revers': did you mean 'reverse'?"),
        ("train task.program=revers", "unknown task 'revers'"),
        ("circuit --reference task=revers", "unknown task 'revers'"),
        ("explain --reference task=revers", "unknown task 'revers'"),
        (
            "match RUN analysis.devise=cpu",
            "unknown key 'analysis.devise': did you mean 'analysis.d",
        ),
        ("train analysis.measures=[acuracy]", "unknown measure 'acuracy' (analysis.measures): did"),
        ("train model=5L", "unknown model '5L'"),
        ("train seed=x", "seed=x must be a whole number"),
        ("train analysis.device=cpuu", "analysis.device=cpuu cannot be used here: did you mean"),
        ("train trainer.accelerator=gpuu", "trainer.accelerator=gpuu: did you mean 'gpu'?"),
        ("controls task=revers", "unknown task 'revers'"),
        ("tasks revers", "unknown task 'revers'"),
        ("match-controls revers", "unknown task 'revers'"),
        ("match-model folder task=revers --encoder own.py:encode", "unknown task 'revers'"),
        ("match RUN --device cpuu", "analysis.device=cpuu cannot be used here"),
        ("explain RUN --device cpuu", "analysis.device=cpuu cannot be used here"),
        ("analyze RUN --device cpuu", "analysis.device=cpuu cannot be used here"),
        ("match nowhere", "checkpoint 'nowhere' does not exist: give a model.safetensors"),
        ("match .", "'.' has no checkpoint"),
        ("match nowhere more", "'nowhere' does not exist"),
        ("analyze nowhere", "checkpoint 'nowhere' does not exist"),
        ("analyze --reference task=reverse", "--reference takes a checkpoint, and measures its ta"),
        ("report nowhere", "'nowhere' does not exist"),
        ("compare .", "'.' is not a run folder and does not directly contain one"),
        ("log nowhere", "'nowhere' does not exist"),
        ("circuit RUN --kinds foo", "unknown kind 'foo': valid: mean, resample_across"),
        ("circuit RUN --methods eapp", "unknown method 'eapp': did you mean 'eap'?"),
        ("match --reference task=reverse --programs x", "unknown program 'x' of reverse: valid: "),
        ("match-model m task=reverse --encoder f.py:g", "--encoder: program file 'f.py' does not"),
        ("train run_dir=.", "run folder '.' exists: choose another run_dir"),
        ("match RUN --controls", "`match --controls` is a command of its own now"),
    ],
)
def test_a_typo_is_answered_before_anything_heavy_is_imported(
    here: Path, arguments: str, said: str
) -> None:
    program = (
        "import sys, time; from algomatch.cli.main import main; code = main(sys.argv[1:]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), time.process_time()); "
        "sys.exit(code)"
    )
    done = command(sys.executable, "-c", program, *arguments.split(), cwd=here)
    assert done.returncode == 2
    assert said in one_line(done.stderr)
    *imported, seconds = done.stdout.split()
    assert not HEAVY & set(imported)
    assert float(seconds) < 1  # of CPU; it takes 0.2 to 0.3
