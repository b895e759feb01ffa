"""A program's file and the files it imports: they are copied, and loaded from the copies."""

from __future__ import annotations

import py_compile
import shutil
import sys
from pathlib import Path

import pytest
from support.programs import write_program

from algomatch.config.composition import compose, to_yaml
from algomatch.config.schema import Config, TaskConfig
from algomatch.data.program_copies import copied_files, in_copies, is_own, same_programs
from algomatch.data.tasks import Task, make_task
from algomatch.data.user_functions import load_function
from algomatch.infra.errors import UserError

MINE = """\
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))

from tracr.rasp import rasp

import near_of_mine


def make_mine():
    import importlib

    from of_lib import STEP

    dynamic = importlib.import_module("asked_by_name")
    return rasp.Map(lambda t: near_of_mine.wrapped(t + STEP + dynamic.ZERO), rasp.tokens)


def make_late():
    def shifted(t):
        from only_later import STEP

        return near_of_mine.wrapped(t + STEP)

    return rasp.Map(shifted, rasp.tokens)
"""
FILES = {
    "near_of_mine": "from package_of_mine.deep import SIZE\n\n\n"
    "def wrapped(t):\n    return t % SIZE\n",
    "package_of_mine/__init__": "",
    "package_of_mine/deep": "from .deeper import SIZE\n",
    "package_of_mine/deeper": "SIZE = 3\n",
    "package_of_mine/not_imported": "1 / 0\n",
    "lib/of_lib": "STEP = 1\n",
    "asked_by_name": "ZERO = 0\n",
    "only_later": "STEP = 1\n",
    "rules/short": "def is_short(tokens):\n    import near_of_rules\n\n"
    "    return near_of_rules.LONGEST >= len(tokens)\n",
    "rules/near_of_rules": "LONGEST = 2\n",
    "not_imported": "1 / 0\n",
}
SETTINGS = ("task.vocabulary=[0,1,2]", "task.max_length=3", "task.alternatives=[make_late]",
            "task.restrict=rules/short.py:is_short")  # fmt: skip


def written(folder: Path, text: str = MINE) -> Path:
    """A user's folder with a program and all that it imports."""
    for name, content in FILES.items():
        write_program((folder / name).parent, Path(name).name, content)
    return write_program(folder, "mine", text)


def task_of_file(path: Path, *settings: str) -> TaskConfig:
    return compose([f"task={path}:make_mine", *(settings or SETTINGS)]).task


def copied(task: TaskConfig, home: Path) -> Path:
    """A folder that holds a task's copies, as a run folder does."""
    for name, content in copied_files(task).files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(content)
    return home


def outputs(task: Task) -> list[object]:
    programs = (task.program, *task.alternatives.values())
    return [program([0, 1, 2]) for program in programs]


def test_a_program_carries_what_it_imports_from_beside_it_and_is_found_again(
    tmp_path: Path,
) -> None:
    task = task_of_file(written(tmp_path / "user"))
    before, modules, path = outputs(make_task(task)), set(sys.modules), list(sys.path)
    assert before == [[1, 2, 0], [1, 2, 0]]
    home = copied(task, tmp_path / "run")
    names = {str(path.relative_to(home / "program")) for path in home.rglob("*.py")}
    assert names == {
        "mine.py", "near_of_mine.py", "package_of_mine/__init__.py", "package_of_mine/deep.py",
        "package_of_mine/deeper.py", "of_lib.py", "asked_by_name.py", "only_later.py",
        "rules/short.py", "rules/near_of_rules.py",
    }  # fmt: skip
    assert copied_files(task).left_out == ()
    shutil.rmtree(tmp_path / "user")
    home.rename(tmp_path / "moved")
    there = in_copies(task, tmp_path / "moved", "run")
    again = make_task(there)
    assert outputs(again) == before
    assert again.accepts is not None
    assert [again.accepts([0, 1]), again.accepts([0, 1, 2])] == [True, False]
    assert (set(sys.modules) - modules, sys.path) == ({*there_modules()} - modules, path)
    assert not list((tmp_path / "moved").rglob("*.pyc"))


def there_modules() -> list[str]:
    return [name for name in sys.modules if name.startswith("algomatch_brought_")]


def test_the_copies_count_where_the_original_was_edited_whatever_its_path_lines_say(
    tmp_path: Path,
) -> None:
    user = tmp_path / "user"
    text = MINE.replace("os.path.dirname(os.path.abspath(__file__))", repr(str(user)))
    task = task_of_file(written(user, text))
    before = outputs(make_task(task))
    home = copied(task, tmp_path / "run")
    for name in ("lib/of_lib", "only_later"):
        write_program((user / name).parent, Path(name).name, "STEP = 2\n")
    assert outputs(make_task(task)) == [[2, 0, 1], [2, 0, 1]]
    assert outputs(make_task(in_copies(task, home, "run"))) == before


def test_copies_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    homes = {}
    for step in (1, 2):
        path = written(tmp_path / "user")
        write_program(tmp_path / "user/lib", "of_lib", f"STEP = {step}\n")
        write_program(tmp_path / "user", "only_later", f"STEP = {step}\n")
        task = task_of_file(path)
        make_task(task)
        homes[step] = copied(task, tmp_path / f"run-{step}")
    tasks = {step: in_copies(task, home, "run") for step, home in homes.items()}
    made = {step: make_task(config) for step, config in tasks.items()}
    for step in (2, 1, 2):  # late imports too
        assert outputs(made[step]) == [[step % 3, (step + 1) % 3, (step + 2) % 3]] * 2
    assert same_programs(tasks[1]) != same_programs(tasks[2])
    shutil.copytree(homes[1], tmp_path / "elsewhere")
    assert same_programs(in_copies(task, tmp_path / "elsewhere", "run")) == same_programs(tasks[1])


def test_what_lies_elsewhere_is_named_and_not_carried(tmp_path: Path) -> None:
    elsewhere = write_program(tmp_path / "elsewhere", "common_of_mine", "STEP = 1\n")
    text = MINE.replace("import near_of_mine", f"sys.path.append({str(elsewhere.parent)!r})\n"
                        "import near_of_mine\nimport common_of_mine")  # fmt: skip
    task = task_of_file(written(tmp_path / "user", text))
    make_task(task)
    copies = copied_files(task)
    assert copies.left_out == (elsewhere,)
    assert not any("common_of_mine" in name for name in copies.files)


def test_files_that_a_registered_task_names_are_carried_too(tmp_path: Path) -> None:
    user = written(tmp_path / "user").parent
    keys = (f"task.alternatives=[{user}/mine.py:make_mine,sort]",
            f"task.restrict={user}/rules/short.py:is_short")  # fmt: skip
    task = compose(["task=reverse", "task.vocabulary=[0,1,2]", *keys]).task
    assert is_own(task)
    make_task(task)
    home = copied(task, tmp_path / "run")
    shutil.rmtree(user)
    there = make_task(in_copies(task, home, "run"))
    assert list(there.alternatives) == ["mine", "sort"]
    assert there.accepts is not None
    assert not there.accepts([0, 1, 2])


def test_a_task_without_files_is_as_it_was(tmp_path: Path) -> None:
    task = compose(["task=sort"]).task
    assert not is_own(task)
    assert in_copies(task, tmp_path, "checkpoint") is task
    assert copied_files(task).files == {}


RUNS = "import pathlib\n\npathlib.Path({mark!r}).touch()\n"


def test_a_path_that_a_checkpoint_alone_names_is_not_read(tmp_path: Path) -> None:
    mark = tmp_path / "was run"
    path = write_program(tmp_path, "mine", RUNS.format(mark=str(mark)) + MINE)
    alone = tmp_path / "alone"
    alone.mkdir()
    with pytest.raises(UserError, match="give the checkpoint in its run folder"):
        in_copies(task_of_file(path), alone, "checkpoint")
    assert not mark.exists()


def test_a_run_json_does_not_let_a_checkpoint_name_any_path(tmp_path: Path) -> None:
    mark, got = tmp_path / "was run", tmp_path / "got"
    path = write_program(tmp_path, "mine", RUNS.format(mark=str(mark)) + MINE)
    own, plain = compose(["task=reverse", f"task.restrict={path}:f"]), compose(["task=reverse"])
    got.mkdir()
    (got / "run.json").write_text("{}")
    for config, beside in ((None, "none"), (plain, "none"), (own, "model.safetensors")):
        if config is not None:  # the config of another task, or of an artifact
            (got / "config.yaml").write_text(to_yaml(config))
        (got / beside).touch()
        with pytest.raises(UserError, match="give the checkpoint in its run folder"):
            make_task(in_copies(own.task, got, "checkpoint"))
    assert not mark.exists()
    (got / "model.safetensors").unlink()
    assert in_copies(own.task, got, "run") is own.task, "a run folder of an earlier version"


def test_a_module_without_its_source_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "was run"
    (tmp_path / "lib").mkdir()
    for name in ("lib/hidden", "near_hidden"):
        source = write_program(tmp_path, Path(name).name, RUNS.format(mark=str(mark)))
        py_compile.compile(str(source), str(tmp_path / f"{name}.pyc"))
        source.unlink()
        lines = (
            "import os, sys\nsys.path.append(os.path.dirname(os.path.abspath(__file__)) + '/lib')\n"
        )
        path = write_program(
            tmp_path, f"mine_{Path(name).name}", f"{lines}import {Path(name).name}\n"
        )
        with pytest.raises(UserError, match=rf"{name}.pyc' is not a source file"):
            load_function(f"{path}:f")
    assert not mark.exists()


def test_an_earlier_run_has_one_copy(tmp_path: Path) -> None:
    path = written(tmp_path / "user")
    task, home = task_of_file(path, "task.vocabulary=[0,1,2]"), tmp_path / "run"
    home.mkdir()
    (home / "run.json").touch()
    (home / "config.yaml").write_text(to_yaml(Config(task=task)))
    (home / "program.py").write_bytes(path.read_bytes())
    assert in_copies(task, home, "run") is task, "its imports are beside the original"
    plain = "from tracr.rasp import rasp\n\n\ndef make_mine():\n    return rasp.indices\n"
    (home / "program.py").write_text(plain)
    assert outputs(make_task(in_copies(task, home, "run"))) == [[0, 1, 2]]
    path.unlink()
    assert outputs(make_task(in_copies(task, home, "run"))) == [[0, 1, 2]]
    (home / "run.json").unlink()  # as in an artifact
    assert outputs(make_task(in_copies(task, home, "run"))) == [[0, 1, 2]]


def test_a_program_that_reads_data_is_read_where_it_was(tmp_path: Path) -> None:
    """Data files are not copied; the run's own folder is used only if a file was edited."""
    text = (
        "from pathlib import Path\nfrom tracr.rasp import rasp\n\n"
        "STEP = int((Path(__file__).parent / 'step.txt').read_text())\n\n\n"
        "def make_it():\n    return rasp.Map(lambda x: (x + STEP) % 3, rasp.tokens)\n"
    )
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "step.txt").write_text("1")
    path = write_program(tmp_path / "user", "mine", text)
    config = compose([f"task={path}:make_it", "task.vocabulary=[0,1,2]", "task.max_length=3"])
    home = copied(config.task, tmp_path / "run")
    (home / "run.json").write_text("{}")
    (home / "config.yaml").write_text(to_yaml(config))
    make_task(in_copies(config.task, home, "run"))
    path.write_text(text + "# edited\n")
    with pytest.raises(UserError, match="cannot be imported"):
        make_task(in_copies(config.task, home, "run"))


def test_the_search_path_holds_while_a_function_runs(tmp_path: Path) -> None:
    text = "import sys\n\nsys.path.insert(0, '/a/folder/of/mine')\n\n\n"
    path = write_program(tmp_path, "mine", f"{text}def paths():\n    return sys.path[:2]\n")
    before = list(sys.path)
    function = load_function(f"{path}:paths")
    assert function() == ["/a/folder/of/mine", str(tmp_path)]
    assert sys.path == before
