"""`algomatch controls`."""

from __future__ import annotations

from .arguments import CONTROLS_MODEL, MODEL_KEYS, composed, console, say_next, setting_key
from .options import Settings


def controls(*settings: Settings, again: bool = False) -> None:
    """Measure models whose answer is known, to see which measures can be trusted on a task.

    These are the compiled program in other weights, a network trained to implement it, random and
    other tasks' networks, and compiled alternatives. The command says which measures separate them.
    The architecture is 4L unless model=... says otherwise.

    Args:
        again: repeat measurements that are already done
    """
    chosen = list(settings)
    if not any(setting_key(setting) in MODEL_KEYS for setting in settings):
        chosen.insert(0, f"model={CONTROLS_MODEL}")
    config = composed(chosen)
    from ..api.controls import controls as measure_controls
    from ..config.printed_commands import command, task_words

    screen = console()
    measure_controls(config, again, screen)
    say_next(command("train", *task_words(config.task), f"model={config.model.name}"), screen)
