"""The states of a model's sites, and the result as typed tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from ...infra.typed_tables import TypedTable, separated
from ..results import STATES, About, Key, Result
from .site_states import SiteStates
from .state_verdicts import CutAtSite, StatesVerdict

NAMES = "; "  # between the names of variables, which may hold blanks and commas


@dataclass(frozen=True)
class LibrarySize:
    """How large the library was: variables, expressions tried, whether all up to a cost were."""

    variables: int
    tried: int
    cost: int
    complete: bool
    seconds: float


@dataclass(frozen=True)
class ModelStates:
    """The states of a model at a step, the verdicts on its task's programs, and the controls.

    `controls` names them, in the order of each site's `control_bits`. `n` is the number of inputs
    that the states are judged on, `most_bits` the entropy of (input, position).
    """

    run: str
    step: int | None
    task: str
    exact: float
    n: int
    exhaustive: bool
    most_bits: float
    sufficient: float
    library: LibrarySize
    sites: tuple[SiteStates, ...]
    cuts: tuple[CutAtSite, ...]
    verdicts: tuple[StatesVerdict, ...]
    controls: tuple[str, ...]

    @property
    def title(self) -> str:
        """The run and the step."""
        return self.run if self.step is None else f"{self.run}, step {self.step}"


@dataclass(frozen=True, kw_only=True)
class StateRow:
    """A state of a site, on all inputs; `rank` 0 is the simplest.

    `sufficiency` is the share of the inputs whose whole output stays the model's own, `right` whose
    output is the task's. `permuted` is the same with the state's labels permuted. `control_bits`
    are the fewest that a control needs at the site, and `short` says whether the state has fewer
    than all of them. A site without a state has one row without variables and bits.
    """

    run: str = ""
    step: int | None
    site: str
    kind: str
    rank: int = 0
    variables: tuple[str, ...] = field(default=(), metadata=separated(NAMES))
    sufficiency: float | None = None
    low: float | None = None
    high: float | None = None
    right: float | None = None
    n: int = 0
    moved: float | None = None
    left_out: float | None = None
    bits: float | None = None
    most_bits: float
    cost: int | None = None
    permuted: float | None = None
    control_bits: float | None = None
    short: bool = False

    @property
    def model(self) -> str:
        """The run."""
        return self.run


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """What is lost of a state's sufficiency without one of its variables, paired by input."""

    run: str = ""
    step: int | None
    site: str
    rank: int
    variable: str
    loss: float
    low: float
    high: float
    needed: bool

    @property
    def model(self) -> str:
        """The run."""
        return self.run


@dataclass(frozen=True, kw_only=True)
class CurveRow:
    """A point of a site's curve: the highest sufficiency seen with at most so many bits."""

    run: str = ""
    step: int | None
    site: str
    bits: float
    sufficiency: float
    low: float
    high: float
    variables: tuple[str, ...] = field(default=(), metadata=separated(NAMES))

    @property
    def model(self) -> str:
        """The run."""
        return self.run


@dataclass(frozen=True, kw_only=True)
class CutRow:
    """A cut of a program at a site: whether it is held there, with which extra, or why not."""

    run: str = ""
    step: int | None
    program: str
    cut: str
    site: str
    sufficiency: float
    low: float
    high: float
    bits: float
    extra: tuple[str, ...] = field(default=(), metadata=separated(NAMES))
    extra_bits: float = 0.0
    held: bool
    why: str = ""

    @property
    def model(self) -> str:
        """The run."""
        return self.run


@dataclass(frozen=True, kw_only=True)
class VerdictRow:
    """The verdict on a program by the model's states."""

    run: str = ""
    step: int | None
    exact: float
    program: str
    verdict: str
    extra_bits: float
    why: str

    @property
    def model(self) -> str:
        """The run."""
        return self.run


@dataclass(frozen=True, kw_only=True)
class StatesResult(Result):
    """What the sites of checkpoints of a model hold."""

    states: tuple[StateRow, ...] = ()
    losses: tuple[LossRow, ...] = ()
    curve: tuple[CurveRow, ...] = ()
    cuts: tuple[CutRow, ...] = ()
    verdicts: tuple[VerdictRow, ...] = ()
    model_states: ModelStates | None = field(default=None, repr=False, compare=False)

    KIND: ClassVar[str] = STATES
    TABLES: ClassVar[Mapping[str, TypedTable[Any]]] = {
        "states": TypedTable(StateRow, "states.csv"),
        "losses": TypedTable(LossRow, "losses.csv"),
        "curve": TypedTable(CurveRow, "curve.csv"),
        "cuts": TypedTable(CutRow, "cuts.csv"),
        "verdicts": TypedTable(VerdictRow, "verdicts.csv"),
    }
    PICTURES: ClassVar[tuple[str, ...]] = ("states.png",)

    @classmethod
    def of(cls, model: ModelStates, key: Key, finished: bool = True) -> Self:
        """Return a model's states as a result."""
        fullness = (len(model.sites),)
        return cls(
            about=About(key, model.task, finished=finished, fullness=fullness),
            states=tuple(_states(model)), losses=tuple(_losses(model)),
            curve=tuple(_curve(model)), cuts=tuple(_cuts(model)), verdicts=tuple(_verdicts(model)),
            model_states=model,
        )  # fmt: skip


def _states(model: ModelStates) -> Iterator[StateRow]:
    for site in model.sites:
        lowest = min(site.control_bits, default=None)
        if not site.states:
            yield StateRow(
                run=model.run, step=model.step, site=site.site, kind=site.kind,
                most_bits=model.most_bits, control_bits=lowest,
            )  # fmt: skip
        for rank, state in enumerate(site.states):
            sufficiency = state.sufficiency
            yield StateRow(
                run=model.run, step=model.step, site=site.site, kind=site.kind, rank=rank,
                variables=state.variables, sufficiency=sufficiency.value, low=sufficiency.low,
                high=sufficiency.high, right=sufficiency.right, n=sufficiency.n,
                moved=sufficiency.moved, left_out=sufficiency.left_out, bits=state.bits,
                most_bits=model.most_bits, cost=state.cost,
                permuted=site.permuted if rank == 0 else None, control_bits=lowest,
                short=lowest is None or state.bits < lowest,
            )  # fmt: skip


def _losses(model: ModelStates) -> Iterator[LossRow]:
    for site in model.sites:
        for rank, state in enumerate(site.states):
            for loss in state.losses:
                yield LossRow(
                    run=model.run, step=model.step, site=site.site, rank=rank,
                    variable=loss.variable, loss=loss.value, low=loss.low, high=loss.high,
                    needed=loss.needed,
                )  # fmt: skip


def _curve(model: ModelStates) -> Iterator[CurveRow]:
    for site in model.sites:
        for point in site.curve:
            yield CurveRow(
                run=model.run, step=model.step, site=site.site, bits=point.bits,
                sufficiency=point.sufficiency.value, low=point.sufficiency.low,
                high=point.sufficiency.high, variables=point.variables,
            )  # fmt: skip


def _cuts(model: ModelStates) -> Iterator[CutRow]:
    for at in model.cuts:
        sufficiency = at.state.sufficiency
        yield CutRow(
            run=model.run, step=model.step, program=at.program, cut=at.cut.name, site=at.site,
            sufficiency=sufficiency.value, low=sufficiency.low, high=sufficiency.high,
            bits=at.state.bits, extra=at.extra, extra_bits=at.extra_bits, held=at.held, why=at.why,
        )  # fmt: skip


def _verdicts(model: ModelStates) -> Iterator[VerdictRow]:
    for verdict in model.verdicts:
        yield VerdictRow(
            run=model.run, step=model.step, exact=model.exact, program=verdict.program,
            verdict=verdict.verdict, extra_bits=verdict.extra_bits, why=verdict.why,
        )  # fmt: skip
