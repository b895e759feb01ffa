"""Checks that the accelerators that a config names are available.

Only torch can tell. It is imported only if needed, so the check comes before a command's other
imports.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..infra.errors import UserError, first_line

if TYPE_CHECKING:
    from .schema import Config


def on_device(config: Config, device: str | None) -> Config:
    """Return a config whose measures are taken on a device; None leaves it as it is."""
    if device is None:
        return config
    return replace(config, analysis=replace(config.analysis, device=device))


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
