"""Declarations equal the code: packages, dependencies, layers, examples, the wheel."""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import algomatch
from algomatch.config.composition import configs_dir

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
# Imports point up this list only: a file imports from its own folder or from one above it.
LAYERS = (
    "__init__", "errors", "environment", "terminal", "files", "kept", "progress", "stopping",
    "workers", "values", "config", "devices", "commands", "sweep_file", "sweep_cells", "data",
    "models", "analysis", "tracking", "report", "experiment", "match", "circuit", "explain",
    "sweep", "several", "command_line", "cli", "__main__",
)  # fmt: skip
SOURCES = sorted(path.relative_to(SRC) for path in SRC.rglob("*.py"))
TINY = (
    "task.vocabulary=[a,b]", "task.max_length=3", "model=1L", "model.d_model=8", "model.n_heads=2",
    "trainer.max_steps=3", "trainer.checkpoints=2", "trainer.accelerator=cpu",
    "analysis.bootstrap=20", "analysis.random_inits=1", "tracking=disabled",
)  # fmt: skip


@cache
def parsed(source: Path) -> ast.Module:
    """A source file's syntax tree."""
    return ast.parse((SRC / source).read_text())


def imports(source: Path) -> Iterator[tuple[int, str]]:
    """Yield each import in a file, at any depth: the number of dots, and the dotted name."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.level, ".".join(filter(None, (node.module, alias.name)))


def module_name(source: Path) -> str:
    """The import name of a source file."""
    parts = [part for part in source.with_suffix("").parts if part != "__init__"]
    return ".".join(["algomatch", *parts])


def folders(top: Path, name: str, suffix: str) -> set[str]:
    """The package names of the folders below `top` that hold files with a pattern."""
    held = {path.parent.relative_to(top) for path in top.rglob(f"*{suffix}")}
    return {".".join([name, *folder.parts]) for folder in held}


def test_the_packages_are_the_folders() -> None:
    expected = folders(SRC, "algomatch", ".py")
    expected |= folders(ROOT / "configs", "algomatch.configs", ".yaml")
    assert sorted(SETUPTOOLS["packages"]) == sorted(expected)
    data = {name for name, patterns in SETUPTOOLS["package-data"].items() if "*.yaml" in patterns}
    assert data == folders(ROOT / "configs", "algomatch.configs", ".yaml")


def test_the_checkouts_configs_are_found() -> None:
    assert configs_dir().is_dir()
    assert {p.name for p in configs_dir().iterdir()} >= {"train.yaml", "task", "model", "tracking"}


def declared(extra: str | None = None) -> dict[str, Requirement]:
    """The declared dependencies by canonical name; those of an extra if it is named."""
    listed = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    requirements = [Requirement(text) for text in listed]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def test_every_imported_library_is_a_declared_dependency() -> None:
    distributions = packages_distributions()
    undeclared = {}
    for source in SOURCES:
        for level, name in imports(source):
            top = name.partition(".")[0]
            if level or top in sys.stdlib_module_names:
                continue
            owners = {canonicalize_name(owner) for owner in distributions.get(top, [top])}
            if not owners & set(declared()):
                undeclared[str(source)] = f"{top} (of {', '.join(sorted(owners))})"
    assert undeclared == {}


def test_the_constraints_pin_every_declared_dependency_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict[str, str]()
    for line in lines:
        if line and not line.startswith("#"):
            name, separator, version = line.partition("==")
            assert separator, f"{line!r} is no exact version"
            pins[canonicalize_name(name)] = version
    for name, requirement in {**declared(), **declared("dev")}.items():
        assert name in pins, f"{name} is not pinned"
        assert requirement.specifier.contains(pins[name]), (
            f"{name}=={pins[name]} is not {requirement}"
        )


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_imports_inside_the_package_are_relative(source: Path) -> None:
    absolute = [name for level, name in imports(source) if level == 0]
    assert not [name for name in absolute if name.partition(".")[0] == "algomatch"]


def test_only_rooms_lie_at_the_top() -> None:
    assert {path.name for path in SRC.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_no_two_modules_have_the_same_name() -> None:
    names = Counter(path.stem for path in SOURCES if path.stem != "__init__")
    assert [name for name, times in names.items() if times > 1] == []


def test_no_two_public_classes_have_the_same_name() -> None:
    names = Counter(
        node.name
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert names["Component"] == 1
    assert [name for name, times in names.items() if times > 1] == []


def bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that a syntax node defines."""
    match node:
        case ast.Name(ctx=ast.Store() | ast.Del()):
            yield node.id
        case ast.FunctionDef() | ast.ClassDef():
            yield node.name
        case ast.arg():
            yield node.arg
        case ast.alias():
            yield (node.asname or node.name).partition(".")[0]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            yield name


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_every_name_means_something(source: Path) -> None:
    """Linters cannot check this: they take the shapes in annotations for names."""
    nodes = list(ast.walk(parsed(source)))
    known = {name for node in nodes for name in bound(node)} | set(dir(builtins)) | {"__file__"}
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    assert not used - known - {"__package__"}


def examples(source: Path) -> Iterator[doctest.DocTest]:
    """Yield the docstrings of a file that hold examples, as doctests of its module."""
    module = importlib.import_module(module_name(source))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(parsed(source)):
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        if text is not None and ">>>" in text:
            name = getattr(node, "name", source.stem)
            globs = dict(vars(module))
            yield doctest.DocTestParser().get_doctest(text, globs, name, str(source), 0)


@pytest.mark.parametrize(
    "source", [path for path in SOURCES if ">>>" in (SRC / path).read_text()], ids=str
)
def test_docstring_examples_run(source: Path) -> None:
    runner, report = doctest.DocTestRunner(verbose=False), list[str]()
    for test in examples(source):
        runner.run(test, out=report.append)
    written = re.findall(r"^\s*>>> ", (SRC / source).read_text(), re.MULTILINE)
    assert runner.failures == 0, "".join(report)
    assert runner.tries == len(written)


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Run Python outside the checkout; return its output."""
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, f"{finished.stdout[-2000:]}{finished.stderr[-4000:]}"
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout stays clean."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    litter = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("src", "configs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=litter)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), cwd=copy)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_every_config(wheel: Path) -> None:
    assert wheel.name == f"algomatch-{algomatch.__version__}-py3-none-any.whl"
    expected = {f"algomatch/{source.as_posix()}" for source in SOURCES} | {"algomatch/py.typed"}
    yaml = (ROOT / "configs").rglob("*.yaml")
    expected |= {f"algomatch/{path.relative_to(ROOT).as_posix()}" for path in yaml}
    templates = (SRC / "report" / "html" / "templates").iterdir()
    expected |= {f"algomatch/{path.relative_to(SRC).as_posix()}" for path in templates}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_installed_wheel_trains_outside_the_checkout(
    wheel: Path, tmp_path: Path, reference_cache: Path
) -> None:
    site, cwd = tmp_path / "site", tmp_path / "cwd"
    cwd.mkdir()
    install = ("--no-deps", "--no-index", "--no-cache-dir", "--disable-pip-version-check")
    run("-m", "pip", "install", "--quiet", *install, "--target", str(site), str(wheel), cwd=cwd)
    where = "import algomatch.config.composition as c; print(c.__file__); print(c.configs_dir())"
    printed = run("-c", where, cwd=cwd, PYTHONPATH=str(site)).splitlines()
    installed = site.resolve() / "algomatch"
    assert printed == [str(installed / "config" / "composition.py"), str(installed / "configs")]
    printed_run = run(
        "-m", "algomatch", "train", *TINY, "run_dir=done", cwd=cwd, PYTHONPATH=str(site)
    )  # fmt: skip
    assert "max_length 3: all 14 inputs of length 1 to 3 over 2 tokens" in " ".join(
        printed_run.split()
    )
    left = {path.name for path in (cwd / "done").iterdir()}
    assert left >= {"config.yaml", "run.json", "finished.json", "measurements.csv", "checkpoints"}
    assert [path.name for path in cwd.iterdir()] == ["done"]
