"""Faster compiling with Tracr."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import haiku
import jax
import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def fast_compiles() -> Iterator[None]:
    """Stop haiku from drawing random weights and running the model for shapes: both cost seconds.

    Tracr sets every weight. A test in its own process shows that the weights stay the same.
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
