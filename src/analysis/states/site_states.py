"""The states of every site of a model: what it holds, the curve, and what controls need there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...data.rasp.cuts import Cuts
from ...infra.progress import Told
from ...models.task_model import TaskModel
from .search import State, StateSearch, StateSpace
from .state_sites import RESIDUAL, StateSite, site_names, state_sites
from .state_verdicts import CutAtSite, CutTests
from .sufficiency import own_outputs


@dataclass(frozen=True)
class SiteStates:
    """What a site holds: its minimal states, the simplest first, and the curve.

    No states: no set of the library's variables is surely sufficient. `permuted` is the sufficiency
    of the first state's partition with its labels permuted over (input, position): a partition with
    the same bits that says nothing. `control_bits` are the fewest bits that are sufficient in each
    control, `most_bits` where none of the library's is.
    """

    site: str
    kind: str
    states: tuple[State, ...]
    curve: tuple[State, ...]
    permuted: float | None = None
    control_bits: tuple[float, ...] = ()

    @property
    def state(self) -> State | None:
        """The simplest state; None where there is none."""
        return self.states[0] if self.states else None

    @property
    def explains(self) -> bool:
        """Whether a state is short: it has fewer bits than every control needs here.

        Controls are asked only of the residual stream after a block: before, every model holds the
        input, and what an untrained block reads need not matter to it at all.
        """
        state = self.state
        return state is not None and all(state.bits < bits for bits in self.control_bits)


@dataclass(frozen=True)
class SiteFindings:
    """What is known of a site: its states, and how it stands to the cuts of the programs."""

    states: SiteStates
    cuts: tuple[CutAtSite, ...] = ()


def site_states(
    task_model: TaskModel,
    space: StateSpace,
    kinds: Sequence[str],
    programs: Mapping[str, Cuts],
    told: Told = lambda done, total: None,
) -> Iterator[SiteFindings]:
    """Yield the states of each site of a model as soon as they are known, in order of computation.

    They are states of the model's own outputs, right or wrong. Cuts are asked for at the sites of
    the residual stream.
    """
    for site, search in _searches(task_model, space, kinds, told):
        states = search.states(starts_of(space, programs))
        permuted = search.permuted(states[0]) if states else None
        curve = tuple(search.curve(states))
        held = SiteStates(site.name, site.kind, tuple(states), curve, permuted)
        if site.kind != RESIDUAL:
            yield SiteFindings(held)
            continue
        tests = CutTests(space, search, site.name, states)
        of_programs = [tests.of_program(name, cuts) for name, cuts in programs.items()]
        yield SiteFindings(held, tuple(at for each in of_programs for at in each))


def fewest_bits(
    task_model: TaskModel,
    space: StateSpace,
    programs: Mapping[str, Cuts],
    told: Told = lambda done, total: None,
) -> dict[str, float]:
    """Return the fewest bits that are sufficient after each block of a control.

    They are for the control's own outputs. Where no set of the library's variables is sufficient,
    these are the bits of (input, position) itself.
    """
    bits, embedding = dict[str, float](), task_model.sites[0]
    for site, search in _searches(task_model, space, [RESIDUAL], told):
        if site.name == embedding:
            continue
        states = search.states(starts_of(space, programs))
        bits[site.name] = min((state.bits for state in states), default=space.most_bits)
    return bits


def starts_of(space: StateSpace, programs: Mapping[str, Cuts]) -> list[frozenset[int]]:
    """Return the programs' cuts as sets of variables from which states are grown."""
    return [
        space.numbers(cut.variables, name) for name, cuts in programs.items() for cut in cuts.all
    ]


def _searches(
    task_model: TaskModel, space: StateSpace, kinds: Sequence[str], told: Told
) -> Iterator[tuple[StateSite, StateSearch]]:
    own = own_outputs(space.inputs, task_model.logits())
    total = len(site_names(task_model, kinds))
    for done, site in enumerate(state_sites(task_model, kinds)):
        told(done, total)
        yield site, StateSearch(space, own, site.given)
    told(total, total)
