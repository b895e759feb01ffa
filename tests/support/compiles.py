"""Compiling with Tracr in a fraction of the time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import haiku
import jax
import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def fast_compiles() -> Iterator[None]:
    """Let haiku draw no random weights and run no model to find their shapes: it costs seconds.

    Tracr sets every weight. That they come out the same is tested, in a process of its own.
    """
    transform = haiku.transform

    def compiled_at_once(function: Any) -> Any:
        made = transform(function)
        return made._replace(init=jax.jit(made.init))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(haiku, "transform", compiled_at_once)
        patch.setattr(
            haiku.initializers.TruncatedNormal,
            "__call__",
            lambda self, shape, dtype: np.zeros(shape, dtype),
        )
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)
