"""Checks that the accelerators that a config names are available.

A name that is none is refused at once. For others only torch can tell. It is imported only if
needed, so the check comes before a command's other imports.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..infra.errors import UserError, first_line, one_of

if TYPE_CHECKING:
    from .schema import Config

DEVICE = re.compile(r"cpu|(cuda|xpu)(:[0-9]+)?|mps")
ON_CPU = ("circuit", "subspaces")  # analyses that run there unless a device is given
DEVICES = ("cpu", "cuda", "cuda:1", "mps", "xpu")  # a number is that of one of several


def usual_device(analysis: str, own: str) -> str:
    """Return where an analysis runs if nothing says so; `own` is the run's own device.

    >>> usual_device("match", "cuda"), usual_device("circuit", "cuda")
    ('cuda', 'cpu')
    """
    return "cpu" if analysis in ON_CPU else own


def usual_overrides(analysis: str) -> list[str]:
    """Return the overrides that say where an analysis runs if nothing else does.

    >>> usual_overrides("circuit")
    ['analysis.device=cpu']
    """
    return ["analysis.device=cpu"] if analysis in ON_CPU else []


def check_devices(config: Config) -> None:
    """Refuse a config whose accelerators are not available.

    Raises:
        UserError: one of them is not available.
    """
    check_accelerator(config.trainer.accelerator)
    check_device(config.analysis.device)


def check_device(device: str) -> None:
    """Refuse an analysis.device that is not available.

    Raises:
        UserError: it cannot be used here.
    """
    if device == "cpu":
        return
    if not DEVICE.fullmatch(device):
        raise UserError(f"analysis.device={device} cannot be used here: {one_of(device, DEVICES)}")
    import torch

    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = first_line(error).split(". ")[0]
        raise UserError(
            f"analysis.device={device} cannot be used here ({reason}): cpu always can"
        ) from error


def check_accelerator(name: str) -> None:
    """Refuse a trainer.accelerator that is not available.

    Raises:
        UserError: it is not available here.
    """
    if name in ("auto", "cpu"):
        return
    import torch

    available = {
        "auto": True,
        "cpu": True,
        "gpu": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available[name]:
        usable = ", ".join(key for key, there in available.items() if there)
        raise UserError(f"trainer.accelerator={name} is not available here; valid: {usable}")
