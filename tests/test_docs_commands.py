"""Every command, path and link in the README and the docs is valid in this version."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runs import TINY, run

from algomatch.cli.main import EXAMPLES, VERBS, command_line
from algomatch.config.composition import compose
from algomatch.data.registered_tasks import task_names
from algomatch.data.tasks import make_task
from algomatch.report.terminal.task_list import NEXT
from algomatch.runs.sweep_cells import plan

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDERS = {  # placeholders that a reader replaces; other words in capitals are literal
    "RUN", "RUNS", "RUN_DIR", "NAME", "TASK", "FILE", "ENTITY", "PROJECT", "SWEEP", "GPT2_FOLDER",
}  # fmt: skip
MADE = set[str]()  # tasks that can be made
OVERRIDE = re.compile(r"[a-z][\w.]*=")


def blocks(page: Path, kind: str) -> list[str]:
    """A page's code blocks in a language."""
    return [text for of, text in FENCE.findall(page.read_text()) if of == kind]


def inline(page: Path) -> list[str]:
    """A page's inline code."""
    return [" ".join(text.split()) for text in INLINE.findall(FENCE.sub("", page.read_text()))]


def commands(script: str) -> Iterator[list[str]]:
    """Yield a shell script's commands, without comments, once for every value of its loops."""
    lexer = shlex.shlex(script.replace("\\\n", " ").replace("\n", "\n;"), posix=True,
                        punctuation_chars=";&")  # fmt: skip
    lexer.whitespace_split = True
    variables: dict[str, list[str]] = {}
    for stop, words in itertools.groupby(lexer, lambda word: set(word) <= {";", "&"}):
        command = list(words)
        if command[:1] == ["do"]:
            command = command[1:]
        if stop or command in ([], ["done"]):
            continue
        if command[0] == "for":
            variables[command[1]] = command[3:]
        elif len(command) == 1 and OVERRIDE.match(command[0]):
            name, _, value = command[0].partition("=")
            variables[name] = [value]
        else:
            yield from expanded(command, variables)


def expanded(command: list[str], variables: dict[str, list[str]]) -> Iterator[list[str]]:
    """Yield a command once for each combination of its variables' values."""
    used = re.findall(r"\$(\w+)", " ".join(command))
    if not used:
        yield command
        return
    name = next((variable for variable in used if "$" in variables[variable][0]), used[0])
    for value in variables[name]:
        line = [re.sub(rf"\${name}\b", value, word) for word in command]
        yield from expanded(line, variables)


def shown(page: Path) -> Iterator[list[str]]:
    """Yield the commands that a page shows, in blocks and in its text."""
    for script in blocks(page, "sh"):
        yield from commands(script)
    for text in inline(page):
        if text.startswith(("algomatch ", "make ", "python ", "wandb ", "sbatch ")):
            yield shlex.split(re.sub(r" \[([^\]]*?)(?: \.\.\.)?\]", r" \1", text))


def open_(text: str) -> bool:
    """Whether a word holds a placeholder."""
    return bool(PLACEHOLDERS & set(re.findall(r"[A-Z][A-Z0-9_]*", text)))


def check(command: list[str], folder: Path) -> None:
    """Refuse what the command line would refuse, short of doing the work."""
    if len(command) == 2 and command[1] in VERBS:  # no more than a name
        return
    _, bound, _ = command_line().parse_args(
        command[1:], exit_on_error=False, print_error=False, verbose=False
    )
    options = bound.arguments
    given = next((value for value in options.values() if isinstance(value, tuple)), ())
    overrides = [word for word in given if OVERRIDE.match(word) and not open_(word)]
    names = [word for word in given if not OVERRIDE.match(word)]
    config = compose(overrides)
    if repr(config.task) not in MADE:  # a loop of commands repeats it
        make_task(config.task)
        MADE.add(repr(config.task))
    if command[1] == "sweep":
        counts = options.get("count"), options.get("seed", 0), options.get("index")
        plan(ROOT / options["file"], overrides, folder, *counts)
    if command[1] in ("tasks", "match-controls"):
        for name in names:
            assert open_(name) or name in task_names() or overrides or ".py:" in name, name
    for name in options.get("programs", ()):
        assert open_(name) or name in task_names()


@pytest.fixture
def own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the program of docs/tasks.md."""
    (source,) = blocks(ROOT / "docs" / "tasks.md", "python")
    (tmp_path / "my_program.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_accepted(page: Path, own_program: Path) -> None:
    for command in shown(page):
        if command[0] != "algomatch":
            continue
        try:
            check(command, own_program / "sweep")
        except (Exception, SystemExit) as error:
            pytest.fail(f"{shlex.join(command)}: {error!r}")


def test_shell_is_read_as_a_shell_reads_it() -> None:
    script = "for a in 1 2; do  # twice\n  run=x-$a\n  go $run --to \\\n    $a && stop\ndone\n"
    loops = [["go", "x-1", "--to", "1"], ["go", "x-2", "--to", "2"]]
    assert list(commands(script)) == [*loops, ["stop"]]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("algomatch trian", "UnknownCommand"),
        ("algomatch train model.heads=4", "unknown key 'model.heads'"),
        ("algomatch train model=5L", "5L"),
        ("algomatch train task=revers", "revers"),
        ("algomatch match runs/RUN --subspaces", "UnknownOption"),
        ("algomatch sweep sweeps/architecture.yaml", "architecture.yaml"),
        ("algomatch tasks srot", "srot"),
    ],
)
def test_what_is_wrong_is_noticed(command: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises((Exception, SystemExit)) as raised:
        check(command.split(), tmp_path)
    assert problem in repr(raised.value)


QUOTED = re.compile(r"(?<!\w)'[^'\n]*'|\"[^\"\n]*\"")
BARE = re.compile(
    r"(?<![\w.])[a-z]+\.[\w.]+=[^\s`|]*[\[\]{}*?]"
)  # a setting that a shell would expand


def bare(text: str) -> list[str]:
    """Settings in a text that a shell such as zsh would take for a pattern: they need quotes.

    >>> bare("task.vocabulary=[a,b] 'task.vocabulary=[a,b]' task.vocabulary=abc")
    ['task.vocabulary=[a,b]']
    """
    return BARE.findall(QUOTED.sub("", text))


def test_what_needs_quotes_is_noticed() -> None:
    assert bare("train task.vocabulary=[0,1] 'task.held_out_lengths=[4]' model.d_model=8") == [
        "task.vocabulary=[0,1]"
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_shown_setting_needs_quotes_that_it_lacks(page: Path) -> None:
    shell = [*blocks(page, "sh"), *inline(page)]
    assert not [word for text in shell for word in bare(text)]


def test_no_setting_that_the_command_shows_needs_quotes_that_it_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for verb in VERBS:
        command_line().help_print([verb])
    texts = [EXAMPLES, NEXT, capsys.readouterr().out]
    texts += [path.read_text() for path in sorted((ROOT / "sweeps").rglob("*")) if path.is_file()]
    texts.append((ROOT / "Makefile").read_text())
    assert not [word for text in texts for word in bare(text)]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        command[1]
        for page in PAGES
        for command in shown(page)
        if command[0] == "make" and command[1:]
    }
    assert named >= {"demo", "test", "check", "api"}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_are_named_exist(page: Path) -> None:
    folders = "benchmarks|configs|docs|src|sweeps|tests"
    for path in re.findall(rf"(?<![\w/.-])(?:{folders})/[\w/.-]*\w", page.read_text()):
        assert (ROOT / path).exists() or (page.parent / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_an_array_job_has_a_task_for_each_run(tmp_path: Path) -> None:
    (command,) = [c for c in shown(ROOT / "docs" / "sweeps.md") if "sweeps/slurm/local.sbatch" in c]
    last = int(command[1].rpartition("-")[2])
    cells = plan(ROOT / command[-1], [], tmp_path, None, 0, None).cells
    assert command[1] == f"--array=0-{last}"
    assert len(cells) == last + 1


LONG = (
    "--install-completion",
    "sweep",
    "controls",
    "match-controls",
    "workspace",
    "log",
    "match-model",
    "subspaces",
)  # minutes, or a server


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_of_the_readme_run(tmp_path: Path, reference_cache: Path) -> None:
    done = []
    train = ("train", *TINY, "run_dir=runs/RUN", "tracking=disabled", "seed=1")
    assert run(*train, cwd=tmp_path)[0] == 0
    (last,) = sorted((tmp_path / "runs/RUN/checkpoints").iterdir())[-1:]
    for _, *command in (c for c in commands(blocks(ROOT / "README.md", "sh")[1])):
        line = re.sub(r"step-\d+", last.name, shlex.join(command))
        if command[0] in LONG or re.search(r"^train (?!--resume)", line):
            continue
        code, out, err = run(*shlex.split(line), cwd=tmp_path)
        assert code == 0, f"{line}\n{out}\n{err}"
        done.append(command[0])
    assert set(done) == {*VERBS} - {*LONG}
    assert {path.name for path in tmp_path.iterdir()} >= {"rows.csv", "report.html"}
