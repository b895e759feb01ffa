"""The record of a task's controls: measured once, shown with all results of the task.

A study's folder holds the measurements and a note of each control, so that an interrupted study can
be resumed. The verdicts are kept in the user's cache, by the task's inputs, for all its runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..analysis.measurements import Measurement, from_csv, joined_csv, to_csv
from ..analysis.measures import separation
from ..analysis.measures.separation import Separation
from ..config.composition import to_mapping, to_yaml
from ..config.naming import run_name
from ..config.schema import Config
from ..infra.errors import FaultError
from ..infra.files import cache_folder, faults_named, remove_leftovers, write_file, write_folder

ROWS, ABOUT = "measurements.csv", "about.json"


@dataclass(frozen=True)
class Kept:
    """A control's measurements, and a note; no measurements if it could not be made."""

    rows: Sequence[Measurement]
    note: str


class ControlRecord:
    """The folder of one study of controls: one task, one architecture, one set of settings."""

    def __init__(self, config: Config, inputs_digest: str):
        known = {key: value for key, value in to_mapping(config).items() if key not in _ELSEWHERE}
        text = json.dumps([known, inputs_digest, __version__], sort_keys=True, default=str)
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        self._inputs_digest, self._config = inputs_digest, config
        folder = Path(config.runs_dir) / "controls"
        earlier = folder / f"{config.task.name}-{config.model.name}-{self.digest}"
        name = f"{run_name(config).rpartition('-seed')[0]}-{self.digest}"
        self.path = Path(config.run_dir or (earlier if earlier.exists() else folder / name))

    def begin(self) -> None:
        """Make the folder, or continue in an existing one.

        Raises:
            FaultError: it cannot be written.
        """
        with faults_named(f"make the folder '{self.path}'"):
            self._each.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._each)
            write_file(self.path / "config.yaml", to_yaml(self._config).encode())

    @property
    def _each(self) -> Path:
        return self.path / "each"

    def stored(self, name: str) -> Kept | None:
        """Return a control that was measured before; None if it was not, or is damaged."""
        folder = self._each / name
        try:
            rows = from_csv((folder / ROWS).read_bytes(), str(folder / ROWS))
            about = json.loads((folder / ABOUT).read_bytes())
            if about["digest"] != self.digest:
                return None
            return Kept(rows, str(about["note"]))
        except (OSError, ValueError, KeyError, TypeError, FaultError):
            return None

    def keep(self, name: str, kept: Kept) -> None:
        """Write a control's measurements atomically.

        Raises:
            FaultError: they cannot be written.
        """
        about = json.dumps({"note": kept.note, "digest": self.digest})
        with faults_named(f"write the control '{name}'"):
            write_folder(self._each / name, {ROWS: to_csv(kept.rows), ABOUT: about.encode()})

    def finish(
        self, every: Sequence[Kept], separations: Sequence[Separation], figure: bytes
    ) -> None:
        """Write all measurements in one table, the verdicts, and a figure.

        Raises:
            FaultError: they cannot be written.
        """
        table = joined_csv(to_csv(kept.rows) for kept in every)
        verdicts = separation.SEPARATIONS.to_csv(separations)
        with faults_named(f"write '{self.path}'"):
            write_file(self.path / ROWS, table)
            write_file(self.path / separation.SEPARATIONS.name, verdicts)
            write_file(self.path / "controls.png", figure)
        try:
            folder = cache_folder("controls") / self._inputs_digest
            folder.mkdir(parents=True, exist_ok=True)
            write_file(folder / f"{self._config.model.name}-{self.digest}.csv", verdicts)
        except OSError:  # the cache is optional
            return


_ELSEWHERE = ("tracking", "runs_dir", "run_dir")


def verdicts(inputs_digest: str) -> list[Separation] | None:
    """Return the measures' verdicts on a task's controls, by its inputs; None if never studied.

    If several architectures were studied, a measure's smallest gap counts.
    """
    by_key: dict[str, Separation] = {}
    studied = False
    for path in sorted((cache_folder("controls") / inputs_digest).glob("*.csv")):
        try:
            here = separation.SEPARATIONS.from_csv(path.read_bytes(), str(path))
        except (OSError, FaultError):
            continue
        studied = True
        for verdict in here:
            if verdict.key not in by_key or verdict.gap < by_key[verdict.key].gap:
                by_key[verdict.key] = verdict
    return list(by_key.values()) if studied else None


def failing(inputs_digest: str) -> dict[str, str] | None:
    """Return the measures that do not separate the controls of a task, and why; None if unknown.

    It is unknown if there was no study, or none with both positive and negative controls.
    """
    separations = verdicts(inputs_digest)
    return separation.failing(separations) if separations else None
