"""Checkpoints: a folder with weights and their measurements, written as one.

`model.safetensors` alone is enough to measure again. Its header holds the config, the step, the
run, and checksums of the weights and of the measurements beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..analysis.measurements import Measurement, from_csv, to_csv
from ..config.composition import from_mapping, to_mapping
from ..config.schema import Config, TaskConfig
from ..data.program_copies import in_copies
from ..infra.errors import FaultError, UserError
from ..infra.files import faults_named, write_folder
from ..models.bridges import weights_digest
from .places import WEIGHTS, beside, find_checkpoint

ROWS = "measurements.csv"
FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A learned model at a step of a run: NativeModel weights and the config that made it.

    `home` is its run's folder, or its own folder if it lies alone.
    """

    weights: dict[str, Tensor] = field(repr=False)
    config: Config
    run: str
    step: int
    rows_digest: str
    inputs_digest: str
    home: Path

    @property
    def task(self) -> TaskConfig:
        """The config's task; a program of the user's own is read from `home`.

        Files elsewhere that the config names are not read, since a checkpoint's author may have
        named any file.

        Raises:
            UserError: the task is a program of the user's own, and is not in `home`.
        """
        return in_copies(self.config.task, self.home, f"checkpoint of '{self.run}'")


def step_folder(step: int) -> str:
    """Return the name of a step's folder; names sort as steps do.

    >>> step_folder(42)
    'step-00000042'
    """
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step of a step's folder.

    >>> step_of(Path("checkpoints/step-00000042"))
    42
    """
    return int(folder.name.removeprefix("step-"))


def save(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: Config,
    run: str,
    step: int,
    rows: Sequence[Measurement],
    inputs_digest: str,
) -> Path:
    """Write the checkpoint of a step below `folder`, whole or not at all; return its folder.

    `inputs_digest` is the `InputSet`'s digest, so that a changed task is noticed.

    Raises:
        FaultError: it could not be written; what was there is untouched.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    table = to_csv(rows)
    header = {
        "format": FORMAT,
        "run": run,
        "step": step,
        "config": to_mapping(config),
        "weights_digest": weights_digest(tensors),
        "rows_digest": hashlib.sha256(table).hexdigest(),
        "inputs_digest": inputs_digest,
    }
    content = safetensors.torch.save(tensors, {"algomatch": json.dumps(header)})
    path = folder / step_folder(step)
    with faults_named(f"write the checkpoint of step {step}"):
        write_folder(path, {WEIGHTS: content, ROWS: table})
    return path


def load(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`: its file, its folder, or a run folder (its last one).

    Raises:
        UserError: `path` does not exist, or is not a whole checkpoint of this project.
        FaultError: the file cannot be read.
    """
    file = find_checkpoint(path)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except PermissionError as error:
        raise FaultError(f"cannot read checkpoint '{file}': {error.strerror}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"'{file}' is not a whole safetensors file (truncated, or of another kind): {error}"
        ) from error
    if "algomatch" not in metadata:
        raise UserError(f"'{file}' is a safetensors file, but not a checkpoint of algomatch")
    try:
        header = json.loads(metadata["algomatch"])
        digest, number = header["weights_digest"], header["format"]
        run, step, rows_digest = header["run"], int(header["step"]), header["rows_digest"]
        inputs_digest = str(header["inputs_digest"])
        values: Mapping[str, Any] = header["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the header of checkpoint '{file}' is damaged: {error}") from error
    if number != FORMAT:
        raise UserError(
            f"checkpoint '{file}' has format {number}, but this version reads format {FORMAT}"
        )
    if digest != weights_digest(weights):
        raise UserError(f"checkpoint '{file}' is damaged: its weights differ from their checksum")
    config = from_mapping(values, str(file))
    return Checkpoint(weights, config, run, step, rows_digest, inputs_digest, beside(file))


def load_rows(folder: Path, rows_digest: str | None = None) -> list[Measurement]:
    """Return a checkpoint folder's measurements, checked against a digest if one is given.

    Raises:
        FaultError: they are missing or damaged.
    """
    path = folder / ROWS
    with faults_named(f"read the measurements '{path}'"):
        content = path.read_bytes()
    if rows_digest is not None and hashlib.sha256(content).hexdigest() != rows_digest:
        raise FaultError(f"the measurements in '{path}' differ from their checksum")
    return from_csv(content, str(path))
