"""The runs of a sweep file: their configs, folders and states."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..analysis.measures.registered_measures import with_measures
from ..config.composition import check_same_settings, compose, from_mapping, read_yaml
from ..config.naming import run_name
from ..config.schema import Config
from ..infra.errors import UserError
from .sweep_file import SweepFile, read_sweep

BUSY = 75  # exit code of a cell that another process works on (EX_TEMPFAIL)
STOPPED = (-signal.SIGTERM, -signal.SIGINT)  # exit codes of cells stopped before training


@dataclass(frozen=True)
class SweepCell:
    """One run of a sweep: its index, its folder and its config."""

    index: int
    config: Config

    @property
    def folder(self) -> Path:
        """The cell's run folder."""
        return Path(str(self.config.run_dir))

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.folder / "finished.json").is_file()

    @property
    def log(self) -> Path:
        """The log file of the cell's process."""
        return self.folder.parent / "logs" / f"{self.folder.name}.txt"


@dataclass(frozen=True)
class Sweep:
    """A sweep file's cells, all with checked configs, in one folder."""

    file: SweepFile
    folder: Path
    cells: tuple[SweepCell, ...]


@dataclass(frozen=True)
class SweepOutcome:
    """The outcome of a sweep: exit codes by cell index, and the signal that stopped it, if any."""

    sweep: Sweep
    codes: Mapping[int, int]
    signal: int | None

    def state(self, cell: SweepCell) -> str:
        """Return a cell's state, in words."""
        code = self.codes.get(cell.index)
        if cell.finished:
            return "finished"
        if code == BUSY:
            return "in another process"
        if code is None:
            return "begun" if cell.folder.exists() else "not begun"
        if code in STOPPED or code > 128:
            return "interrupted" if cell.folder.exists() else "not begun"
        return "killed" if code < 0 else "failed"

    @property
    def failed(self) -> list[SweepCell]:
        """The cells that failed and were not stopped with the sweep."""
        bad = ["failed", "killed"] + ["interrupted", "not begun"] * (self.signal is None)
        return [
            cell
            for cell in self.sweep.cells
            if cell.index in self.codes and self.state(cell) in bad
        ]


def plan(
    path: Path,
    overrides: Sequence[str] = (),
    output: Path | None = None,
    count: int | None = None,
    seed: int = 0,
    index: int | None = None,
) -> Sweep:
    """Return a sweep's cells with their configs; the same arguments give the same cells.

    With an index, only that cell is returned. The cells' folder is `output`, by default a folder
    named after the file in `runs_dir`.

    Raises:
        UserError: the file is not a sweep file, a cell's config is impossible, the index does not
            exist, or the folder holds runs of other settings.
        FaultError: the file cannot be read.
    """
    file = read_sweep(path)
    swept = [parameter.key for parameter in file.parameters]
    for override in overrides:
        key = override.partition("=")[0]
        for fixed in (*swept, "run_dir"):
            if key == fixed or key.startswith(f"{fixed}.") or key == fixed.removesuffix(".name"):
                raise UserError(f"'{override}': the sweep sets {fixed} itself; change '{path}'")
    planned = list(enumerate(file.cells(count, seed)))
    if index is not None and not 0 <= index < len(planned):
        raise UserError(f"--index {index}: the sweep has runs 0 to {len(planned) - 1}")
    cells = []
    folder = output
    for number, settings in planned if index is None else [planned[index]]:
        config = compose(overrides, given=settings, source=f"cell {number} of {path}")
        config = with_measures(config)
        folder = folder or Path(config.runs_dir) / file.name
        tags = config.tracking.tags
        tags = tags if file.name in tags else [*tags, file.name]
        config = replace(
            config,
            run_dir=str(_cell_folder(folder, number, config)),
            tracking=replace(config.tracking, tags=tags),
        )
        cells.append(SweepCell(number, config))
    _check_folders(cells, folder, alone=index is not None)
    assert folder is not None, "a sweep has at least one cell"
    return Sweep(file, folder, tuple(cells))


def _cell_folder(folder: Path, number: int, config: Config) -> Path:
    """Return a cell's folder; if an earlier version began the cell, that version's folder."""
    earlier = folder / f"{number:04d}-{run_name(config, whole=False)}"
    begun = (earlier / "run.json").is_file()
    return earlier if begun else folder / f"{number:04d}-{run_name(config)}"


def _check_folders(cells: Sequence[SweepCell], folder: Path | None, alone: bool) -> None:
    """Refuse a folder with runs of another sweep, or of other settings."""
    for cell in cells:
        if (cell.folder / "config.yaml").is_file():
            file = cell.folder / "config.yaml"
            check_same_settings(cell.folder, cell.config, from_mapping(read_yaml(file), str(file)))
    if alone or folder is None:
        return
    names = {cell.folder.name for cell in cells}
    for path in sorted(folder.glob("*/run.json")):
        name = path.parent.name
        number = name.partition("-")[0]
        if name not in names and not (number.isdecimal() and int(number) >= len(cells)):
            raise UserError(
                f"'{folder}' has a run that does not belong to this sweep, '{name}': give "
                "another --output, or move that run away"
            )
