"""A task, a measure, an architecture and a threshold are added by 2, 2, 1 and 1 files, and work."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[1]
MAKER = '''

def make_last_token() -> Any:
    """Attend from every position to the last one."""
    return rasp.Aggregate(_at_last(_length()), rasp.tokens).named("last_token")
'''
TASK = """    "last_token": RegisteredTask(
        "the last token, at every position",
        LETTERS,
        lambda xs, v: everywhere(xs[-1], xs),
        matched=True,
    ),
"""
STATISTIC = '''"""How sure a model is of its outputs."""

from collections.abc import Iterator

from ..activations import Recording, Source
from ..base import MeasurementContext
from ..measurements import Measurement, Metric

METRICS = (
    Metric("confidence/mean", "probability", "neither", 0, 1, "of the likeliest output"),
    Metric("confidence/sure_share", "share of positions", "higher", 0, 1, "surely said"),
)


class Confidence:
    """The probability of the likeliest output, over the defined positions."""

    def __init__(self, source: Source, context: MeasurementContext) -> None:
        self._config = context.config
        self._likeliest: list[float] = []

    def add(self, part: Recording, rows: slice) -> None:
        """Add the outputs of a part."""
        logits = part.logits[part.inputs.defined]
        self._likeliest += logits.softmax(-1).max(-1).values.tolist()

    def rows(self) -> Iterator[Measurement]:
        """Yield the mean, and the share above the threshold."""
        n = len(self._likeliest)
        sure = [value >= getattr(self._config, "sure_from", 0.5) for value in self._likeliest]
        yield Measurement("confidence/mean", "model", sum(self._likeliest) / n, n)
        yield Measurement("confidence/sure_share", "model", sum(sure) / n, n)
'''
MEASURE = """    "confidence": RegisteredMeasure(
        "confidence:Confidence",
        of_model=True,
        families=(Family("confidence", r"confidence/model/(?P<name>\\w+)", "{name}"),),
        tabled={"confidence/model/mean": "Confidence"},
    ),
"""
ARCHITECTURE = "n_layers: 3\nattn_only: true\nd_model: 8\nn_heads: 2\n"
THRESHOLD = """    sure_from: float = _share(0.75, "probability from which on an output is sure")
"""
SHOWN = """
import sys
from pathlib import Path
from algomatch.data.registered_tasks import REGISTRY, matched_tasks
from algomatch.data.tasks import make_task
from algomatch.config.composition import compose
from algomatch.hypotheses.compared_headlines import FAMILIES, TABLED
from algomatch.report.figures.run_figure import run_figure
from algomatch.runs.run_folder import RunFolder
from algomatch.tracking.workspace import section, workspace_sections

folder = RunFolder.open(Path(sys.argv[1]))
rows = folder.measurements()
[panel] = [axes for axes in run_figure(folder, rows).axes if axes.get_title() == "Confidence"]
assert [line.get_label() for line in panel.lines] == ["mean", "sure share"], panel.lines
measured = [row.value for row in rows if row.key == "confidence/model/mean"]
assert list(panel.lines[0].get_ydata()) == measured and len(measured) > 1
assert [each.title for each in FAMILIES][-1] == "confidence"
assert "confidence/model/mean" in TABLED
logged = {"confidence/model/mean": 1, "confidence/model/sure_share": 1, "accuracy/all/exact": 1}
[part] = [part for part in workspace_sections() if part.name == "Confidence"]
assert section(part, logged).panels[1].y == list(logged)[:2]
assert "last_token" in matched_tasks()
task = make_task(compose(["task=last_token"]).task)
assert task.program(list("abca")) == REGISTRY["last_token"].oracle(list("abca"), "abcd")
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is extended, in which `lib/algomatch` is the package."""
    root = tmp_path_factory.mktemp("tree")
    for folder in ("src", "configs", "docs", "sweeps"):
        ignored = shutil.ignore_patterns("__pycache__", "images", "study")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "README.md", root)
    (root / "lib").mkdir()
    (root / "lib" / "algomatch").symlink_to(root / "src")
    return root


def files(root: Path) -> dict[str, str]:
    """The digest of every file, by its path."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def changed(before: dict[str, str], root: Path) -> set[str]:
    """The files that are not what they were."""
    after = files(root)
    return {path for path in {*before, *after} if before.get(path) != after.get(path)}


def put(path: Path, text: str, before: str) -> None:
    """Put a text into a file before its only occurrence of another."""
    whole = path.read_text()
    assert whole.count(before) == 1, (path, before)
    path.write_text(whole.replace(before, text + before))


def python(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the copy as the package."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=tree, capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(tree / "lib"), "PYTHONDONTWRITEBYTECODE": "1",
             "COLUMNS": "200"}, check=False,
    )  # fmt: skip


def done(tree: Path, *arguments: str) -> str:
    """What Python printed; it must have succeeded."""
    finished = python(tree, *arguments)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def test_two_two_one_and_one_files_add_a_task_a_measure_an_architecture_and_a_threshold(
    tree: Path,
) -> None:
    src, measures = tree / "src", tree / "src" / "analysis" / "measures"
    before = files(tree)
    put(src / "data" / "programs.py", MAKER.lstrip("\n") + "\n\n", "def make_length() ->")
    put(src / "data" / "registered_tasks.py", TASK, "}\n\n\ndef task_names")
    assert len(changed(before, tree)) == 2
    before = files(tree)
    (measures / "confidence.py").write_text(STATISTIC)
    put(measures / "registered_measures.py", MEASURE, "}\n\n\ndef default_measures")
    assert len(changed(before, tree)) == 2
    before = files(tree)
    (tree / "configs" / "model" / "3L_narrow.yaml").write_text(ARCHITECTURE)
    assert len(changed(before, tree)) == 1
    before = files(tree)
    put(src / "config" / "schema.py", THRESHOLD, "    explain_depth: int")
    assert len(changed(before, tree)) == 1

    before = files(tree)
    done(tree, "docs/tables.py")
    assert changed(before, tree) == {
        "README.md", "docs/configuration.md", "docs/measures.md", "docs/sweeps.md",
        "docs/tasks.md", "sweeps/architectures.yaml", "sweeps/tasks.yaml",
    }  # fmt: skip
    for page, line in {
        "configuration": r"`analysis\.sure_from` \| `0\.75` \| at least 0 and at most 1 \| probab",
        "measures": r"`confidence/sure_share` \| share of positions \| 0 \| 1 \| higher",
        "tasks": r"`last_token` \| the last token, .* \| Attend from every position to the last",
    }.items():
        assert re.search(rf"(?m)^\| {line}", (tree / "docs" / f"{page}.md").read_text()), page
    assert "3L_narrow" in (tree / "README.md").read_text()

    assert re.search(r"last_token +1,364 +1\.\.5 +1 +the last token", done(tree, "-m", "algomatch",
                                                                         "tasks"))  # fmt: skip
    train = ("-m", "algomatch", "train", "task=last_token", "model=3L_narrow", "tracking=disabled",
             "task.vocabulary=[a,b]", "task.max_length=3", "trainer.max_steps=20",
             "trainer.batch_size=12", "trainer.checkpoints=2", "analysis.bootstrap=20",
             "analysis.random_inits=1", "analysis.other_tasks=0", "run_dir=run")  # fmt: skip
    for value in ("1.5", "-0.1"):
        refused = python(tree, *train, f"analysis.sure_from={value}")
        assert refused.returncode == 2
        rule = f"analysis.sure_from={value} must be at least 0 and at most 1"
        assert refused.stderr.splitlines() == [f"algomatch: {rule}"]
    done(tree, *train, "analysis.sure_from=0")
    record = (tree / "run" / "config.yaml").read_text()
    for line in ("n_layers: 3", "sure_from: 0.0", "- confidence", "- matching"):
        assert line in record
    with (tree / "run" / "measurements.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["measure"].startswith("confidence/")]
    assert {row["subject"] for row in rows} == {"model"}
    shares = {row["value"] for row in rows if row["measure"] == "confidence/sure_share"}
    assert shares == {"1.0"}, "the threshold is 0: every output is above it"
    means = [float(row["value"]) for row in rows if row["measure"] == "confidence/mean"]
    assert all(0.5 <= mean < 1 for mean in means), "there are two outputs"
    compared = done(tree, "-m", "algomatch", "compare", "run")
    assert re.search(r"confidence\b", compared)
    done(tree, "-c", SHOWN, str(tree / "run"))
