"""Verdicts on H1, H2 and H3, for one run or over the seeds of an architecture.

Each verdict comes with its evidence, with what would have changed it, and with what was not
measured. It claims no more than intervals, controls and the number of seeds support:

- a model that does not solve its task is not judged;
- a measure that fails the task's controls says nothing. H1 is the exception: it is about compiling,
  so its figures still decide, and are marked;
- one seed says nothing about an architecture.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..analysis.matching.cut_verdicts import DIFFERENT, FOLLOWS, FUSES, NOT_SOLVED
from ..analysis.matching.cut_verdicts import UNDECIDED as CUT_UNDECIDED
from ..analysis.measurements import Measurement
from ..analysis.measures.registered_measures import default_measures
from ..analysis.statistics import wilson_interval
from ..config.printed_commands import RunCommands
from .failed_controls import Failing
from .row_values import NEURON_LABELS, highest_control, of
from .seed_groups import Estimate

SUPPORTED, NOT_SUPPORTED, MIXED = "supported", "not supported", "mixed"
UNDECIDED, NOT_JUDGED, NOT_MEASURED = "undecided", "not judged", "not measured"
NO_NEURONS = "the reference has no MLP neurons to compare with"
TOO_FEW = "the on/off measures of neurons are not defined on so few positions"
NO_HEADS = "every head of the reference attends uniformly"
FOR, AGAINST, NEITHER = "for", "against", "says nothing"
CLAIMS = {
    "H1": "Compiled transformers are more interpretable: their activations are on or off.",
    "H2": "Compiled and learned transformers form the same kind of circuit.",
    "H3": "Causal matching identifies the learned algorithm automatically.",
}
ON_OFF = ("bimodal_share", "dip", "bimodality")  # these figures decide H1
BESIDE = ("hoyer", "gini", "active_share")  # these are shown but do not decide
ONE_SEED = "one seed: says nothing about the architecture"
LEAST_SEEDS = 3  # fewer seeds support no verdict on an architecture
ATTENTION = "attention/matched_overlap"


@dataclass(frozen=True)
class Evidence:
    """A number behind a verdict; `says` is FOR, AGAINST or NEITHER, and `why` is the reason.

    `control` describes the baseline in words, `level` is its value if it has one. `kind` names the
    evidence in the same words for all seeds, if `what` contains details of one seed.
    """

    what: str
    value: float | None
    low: float | None
    high: float | None
    n: str
    control: str
    says: str
    why: str = ""
    failing: bool = False
    decides: bool = True
    level: float | None = None
    kind: str = ""

    @property
    def over_seeds(self) -> str:
        """The name of the evidence, the same for every seed."""
        return self.kind or self.what


@dataclass(frozen=True)
class Lacking:
    """What was not measured, and the command that measures it."""

    what: str
    command: str


@dataclass(frozen=True)
class Hypothesis:
    """A verdict on a hypothesis, with its reason, its evidence and its scope.

    `scope` says how many seeds there are and what follows from that. `change` says what would have
    changed the verdict.
    """

    name: str
    verdict: str
    why: str
    scope: str
    evidence: tuple[Evidence, ...] = ()
    change: tuple[str, ...] = ()
    lacking: tuple[Lacking, ...] = ()

    @property
    def claim(self) -> str:
        """The claim of the hypothesis."""
        return CLAIMS[self.name]


@dataclass(frozen=True)
class Solved:
    """The exact accuracy of a run at its last checkpoint, and what counts as solved."""

    exact: Measurement | None
    at_least: float

    @property
    def yes(self) -> bool:
        """Whether the task is known to be solved."""
        return self.exact is not None and self.exact.value >= self.at_least

    @property
    def refusal(self) -> str:
        """Why the hypotheses are not judged; empty if the task is solved."""
        if self.exact is None:
            return (
                "exact accuracy was not measured, so it is not known whether the model solves "
                "the task"
            )
        if self.yes:
            return ""
        return (
            f"the model does not solve the task: exact accuracy {self.exact.value:.3f} "
            f"(n={self.exact.n:,}) is below {self.at_least:g}"
        )


@dataclass(frozen=True)
class Carried:
    """The number of inner edges of a model's circuit, and the variables that they carry."""

    edges: int
    names: tuple[str, ...]

    @property
    def named(self) -> int:
        """The number of edges that carry a variable."""
        return len(self.names)


@dataclass(frozen=True)
class CircuitFound:
    """The result of `circuit`: the circuit, and what inner edges carry.

    They carry it in the `model`, in the `reference` and in a random init (`untrained`). `step` is
    the step of the checkpoint, `ablation` the kind of resampling. `own` holds the program's
    steps: the variables that are neither input nor output. `still` holds those of them that this
    resampling leaves unchanged, so that it finds no edge for them. `whole` says that the circuit
    is the whole model, because no smaller one is faithful. `across` says that resampling across
    lengths was searched as well. Values that are not known are None.
    """

    step: int | None
    edges: int
    of_edges: int
    faithful: tuple[float, float, float]
    at_least: float
    model: Carried | None
    reference: Carried | None
    untrained: Carried | None
    own: frozenset[str]
    inputs: int | None = None
    still: frozenset[str] = frozenset()
    ablation: str = ""
    whole: bool = False
    across: bool = False

    @property
    def steps(self) -> tuple[frozenset[str], frozenset[str]] | None:
        """The program's steps on inner edges of the reference, and those also on the model's.

        None if the edges of the model or of the reference are not known.
        """
        if self.model is None or self.reference is None:
            return None
        wanted = frozenset(name for name in self.reference.names if _is_step(name, self.own))
        return wanted, frozenset(self.model.names) & wanted

    @property
    def unseen(self) -> frozenset[str]:
        """The steps on the reference's edges that this resampling cannot find in the model."""
        wanted, here = self.steps or (frozenset(), frozenset())
        return frozenset(step for step in wanted - here if set(step.split(" = ")) <= self.still)


@dataclass(frozen=True)
class ProgramVerdict:
    """The verdict of `match` on one program, and the highest chance level of its cuts."""

    step: int | None
    program: str
    verdict: str
    why: str
    score: tuple[float, float, float] | None
    testable: int
    shared_with: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()
    chance: float | None = None


@dataclass(frozen=True)
class Emergence:
    """The steps from which a run solves its task and surely realises each testable cut."""

    solved: int | None = None
    cuts: Mapping[str, int | None] = field(default_factory=dict)


def h1(
    rows: Sequence[Measurement],
    solved: Solved,
    failing: Failing,
    neurons: bool,
    commands: RunCommands,
) -> Hypothesis:
    """Judge H1 at the last checkpoint of a run, by the figures of the reference less the model's.

    `neurons` says whether the model has MLP neurons. H1 is supported if each of the three on/off
    figures is surely higher in the reference, and not supported if each is surely higher in the
    model. Figures that fail the task's controls count too: H1 is about compiling, not about this
    program.
    """
    evidence = tuple(_differences(rows, failing))
    deciding = [part for part in evidence if part.decides]
    measured = bool(deciding)

    def say(verdict: str, why: str, *lacking: Lacking) -> Hypothesis:
        if failing is None and measured:
            lacking += (
                Lacking(
                    "whether these measures separate this program from others", commands.controls
                ),
            )
        return Hypothesis("H1", verdict, why, ONE_SEED, evidence, _change_h1(verdict), lacking)

    if not neurons:
        return say(NOT_JUDGED, "the model has no MLP, and so no neurons to compare")
    taken = of(rows, "sparsity/active_share")
    if not measured and "model" in taken:
        return say(NOT_JUDGED, TOO_FEW if "reference:model" in taken else NO_NEURONS)
    if not measured:
        what = "the neurons' measures (`sparsity` in analysis.measures)"
        lacks = Lacking(what, commands.measure_all(default_measures()))
        return say(NOT_MEASURED, "the neurons were not measured", lacks)
    if solved.refusal:
        return say(NOT_JUDGED, solved.refusal)
    counts = Counter(part.says for part in deciding)
    n = len(ON_OFF)
    if counts[FOR] == n:
        why = f"each of the {n} on/off measures is surely higher in the reference"
        if any(part.failing for part in deciding):
            why += (
                "; none of these separates this program from other compiled programs (✗), so "
                "the result is about compiling"
            )
        return say(SUPPORTED, why)
    if counts[AGAINST] == n:
        return say(NOT_SUPPORTED, f"each of the {n} on/off measures is surely higher in the model")
    if counts[FOR] and counts[AGAINST]:
        return say(
            MIXED,
                f"of {n} on/off measures {counts[FOR]} are surely higher in the reference, and "
                f"{counts[AGAINST]} in the model",
        )  # fmt: skip
    where = "above" if counts[FOR] else "below"
    some = counts[FOR] or counts[AGAINST]
    return say(UNDECIDED, f"of {n} on/off measures {some} are surely {where} zero; all must be")


def _differences(rows: Sequence[Measurement], failing: Failing) -> Iterable[Evidence]:
    for name in (*ON_OFF, *BESIDE):
        row = of(rows, f"sparsity/h1_{name}").get("model")
        if row is None:
            continue
        each = of(rows, f"sparsity/{name}")
        ours, theirs = each.get("model"), each.get("reference:model")
        control = f"model {ours.value:.3f}, reference {theirs.value:.3f}" if ours and theirs else ""
        keys = (f"sparsity/model/{name}", row.key)
        fails = [(failing or {})[key] for key in keys if key in (failing or ())]
        yield Evidence(
            f"{NEURON_LABELS[name]}: reference minus model", row.value, row.ci_low, row.ci_high,
            f"{row.n:,} neuron{'s' * (row.n != 1)}", control, _sign(row.ci_low, row.ci_high),
            f"fails the task's controls: {fails[0]}" if fails else "", bool(fails),
            name in ON_OFF, 0.0,
        )  # fmt: skip


def _sign(low: float | None, high: float | None) -> str:
    """Return FOR if the interval of a difference is above zero, AGAINST if below, else NEITHER."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return NEITHER
    return FOR if low > 0 else AGAINST if high < 0 else NEITHER


def _change_h1(verdict: str) -> tuple[str, ...]:
    if verdict == SUPPORTED:
        return ("if one of the three intervals included zero: undecided",)
    if verdict in (NOT_JUDGED, NOT_MEASURED):
        return ("a model with an MLP that solves the task, and all three of its measures",)
    return ("all three intervals above zero: supported; all below: not supported",)


def h2(
    rows: Sequence[Measurement],
    solved: Solved,
    failing: Failing,
    circuit: CircuitFound | None,
    last_step: int,
    commands: RunCommands,
    searched: bool = False,
    attended: bool = False,
    otherwise: Sequence[str] = (),
) -> Hypothesis:
    """Judge H2 at the last checkpoint of a run, by attention and what the circuit's edges carry.

    If there is no circuit, `searched` says whether one was searched for, and `otherwise` with
    which settings that are not the run's own. If there are no figures of attention, `attended`
    says whether it was measured, with nothing to compare it with.

    H2 is supported if all three hold: attention in common is surely above its controls, and
    passes the task's controls; inner edges of the circuit carry a variable surely more often than
    those of a random init; every step of the program on the reference's inner edges is on the
    model's. It is not supported if each of these surely fails. If attention cannot be trusted, H2
    is neither supported nor refuted.
    """
    evidence, lacking = [], []
    attention = _attention(rows, failing)
    if attention is None and not attended:
        what = "attention in common (`attention` in analysis.measures)"
        lacking.append(Lacking(what, commands.measure_all(default_measures())))
    elif attention is not None:
        evidence.append(attention)
        if failing is None:
            what = "whether overlap of attention can be trusted on this task"
            lacking.append(Lacking(what, commands.controls))
    if circuit is None and not searched:
        lacking.append(
            Lacking("the model's circuit, and what its edges carry", commands.of("circuit"))
        )
    elif circuit is not None:
        evidence += _of_circuit(circuit)
        if circuit.model is None or circuit.untrained is None or circuit.reference is None:
            lacking.append(
                Lacking(
                    "what edges carry, in this model and in the controls", commands.of("circuit")
                )
            )
        if circuit.unseen and not circuit.across:
            what = f"whether the model's edges carry {', '.join(sorted(circuit.unseen))}"
            lacking.append(Lacking(what, commands.of("circuit", "--kinds", "resample_across")))

    def say(verdict: str, why: str) -> Hypothesis:
        return Hypothesis(
            "H2", verdict, why, ONE_SEED, tuple(evidence), _change_h2(verdict), tuple(lacking)
        )

    other = f"the circuit was searched for {_not_own(otherwise)}" if otherwise else ""
    if not evidence and not searched:
        either = other or "neither attention nor the circuit was measured"
        unmeasured = other or "the circuit was not measured"
        return say(NOT_MEASURED, f"{unmeasured}; {NO_HEADS}" if attended else either)
    if solved.refusal:
        return say(NOT_JUDGED, solved.refusal)
    if circuit is None and searched:
        return say(UNDECIDED, "a circuit was searched for, but none is surely faithful")
    if circuit is None:
        alone = "attention alone does not show a circuit"
        return say(UNDECIDED, f"{alone}; {other}" if other else f"{alone}, which was not measured")
    if circuit.step != last_step:
        when = "at an unknown step" if circuit.step is None else f"at step {circuit.step}"
        return say(UNDECIDED, f"the circuit is of a checkpoint {when}, not of the last one")
    deciding = [part for part in evidence if part.decides]
    counts = Counter(part.says for part in deciding)
    n, heads = len(deciding), attention.says if attention is not None else NEITHER
    size = f"; its circuit is {_edges_of(circuit)}" if circuit.whole else ""
    if heads == FOR and counts[FOR] == n >= 2 and circuit.model is not None and not lacking:
        return say(SUPPORTED, f"all {n} comparisons are surely beyond their controls{size}")
    if heads == AGAINST and counts[AGAINST] == n >= 2 and not lacking:
        return say(NOT_SUPPORTED, f"none of {n} comparisons is beyond its controls{size}")
    told = f"of {n} comparisons {counts[FOR]} speak for it, {counts[AGAINST]} against{size}"
    if counts[FOR] and counts[AGAINST]:
        return say(MIXED, told)
    told += ", the rest say nothing" if counts[FOR] + counts[AGAINST] < n else ""
    if attention is None or not attention.decides:
        missing = NO_HEADS if attended else "attention in common was not measured"
        told += f"; {missing if attention is None else f'attention in common {attention.why}'}"
    return say(UNDECIDED, told)


def _not_own(otherwise: Sequence[str]) -> str:
    """Return which settings of the analysis were taken in place of the run's own."""
    return f"with {', and with '.join(otherwise)}, not with the run's own settings"


def _attention(rows: Sequence[Measurement], failing: Failing) -> Evidence | None:
    row = of(rows, ATTENTION).get("model")
    if row is None:
        return None
    control = highest_control(rows, ATTENTION, "model")
    fails = row.key in (failing or ())
    says, why = NEITHER, ""
    if fails:
        why = "fails the task's controls"
    elif control is None:
        why = "without a control"
    elif failing is None:
        why = "the controls were not run"
    elif row.ci_low is not None and row.ci_low > control[0]:
        says = FOR
    elif row.ci_high is not None and row.ci_high <= control[0]:
        says = AGAINST
    return Evidence(
        "attention in common with the reference's heads", row.value, row.ci_low, row.ci_high,
        f"{row.n:,} queries", f"{control[0]:.3f} {control[1]}" if control else "none", says, why,
        fails, decides=not fails, level=control[0] if control else None,
    )  # fmt: skip


def _of_circuit(circuit: CircuitFound) -> Iterable[Evidence]:
    value, low, high = circuit.faithful
    on = f"{circuit.inputs:,} inputs" if circuit.inputs is not None else ""
    why = "shows that there is a circuit, not which program it runs"
    if circuit.whole:
        why = "says nothing: the whole model is always faithful"
    kind = "faithfulness of the circuit"
    yield Evidence(
        f"{kind} ({_edges_of(circuit)})", value, low, high, on, f"needed {circuit.at_least:g}",
        NEITHER, why, decides=False, level=circuit.at_least, kind=kind,
    )  # fmt: skip
    model, untrained, reference = circuit.model, circuit.untrained, circuit.reference
    if model is not None and untrained is not None and model.edges and untrained.edges:
        share, theirs = model.named / model.edges, untrained.named / untrained.edges
        low, high = wilson_interval(share, model.edges)
        lower, higher = wilson_interval(theirs, untrained.edges)
        least = 0.0  # of the reference: no named edge counts against H2 only below this
        if reference is not None and reference.edges:
            least = wilson_interval(reference.named / reference.edges, reference.edges)[0]
        fewer = high < lower or (not model.named and high < least)
        says = FOR if low > higher else AGAINST if fewer else NEITHER
        yield Evidence(
            "share of inner edges that carry one variable", share, low, high,
            f"{model.edges} edges", f"{theirs:.3f} ({lower:.3f} to {higher:.3f}) random init, "
            f"n={untrained.edges}", says, level=theirs,
        )  # fmt: skip
    if circuit.steps is not None:
        wanted, here = circuit.steps
        if wanted:
            share = len(here) / len(wanted)
            says = FOR if here == wanted else AGAINST
            why = f"carried by this model's edges: {', '.join(sorted(here)) or 'none'}"
            if says == AGAINST and (here or circuit.unseen == wanted):
                says = NEITHER
            if circuit.unseen:
                left = ", ".join(sorted(circuit.unseen))
                why += (
                    f"; {circuit.ablation} does not change {left}, so it cannot find an edge "
                    "that carries it"
                )
            yield Evidence(
                "steps of the program carried by inner edges of both", share, None, None,
                f"{len(wanted)} steps", "all of them: " + ", ".join(sorted(wanted)), says,
                why, level=1.0,
            )  # fmt: skip


def _edges_of(circuit: CircuitFound) -> str:
    if circuit.whole:
        return f"all {circuit.edges} edges: the whole model"
    return f"{circuit.edges} of {circuit.of_edges} edges"


def _is_step(name: str, own: frozenset[str]) -> bool:
    """Return whether the variable of an edge is surely a step of the program.

    `a = b` names equal variables. `a or b` means that it is not known which of the two it is.
    """
    return " or " not in name and all(part in own for part in name.split(" = "))


def _change_h2(verdict: str) -> tuple[str, ...]:
    if verdict in (NOT_JUDGED, NOT_MEASURED):
        return ("a model that solves the task, its circuit, and the task's controls",)
    if verdict == SUPPORTED:
        return (
            "attention within its controls, a step of the program that no edge carries, or as "
            "many edges with a variable in a random init",)  # fmt: skip
    return (
        "supported: attention surely above controls that are known to separate, surely more "
        "edges with a variable than in a random init, and every step of the program carried by "
        "some edge",
    )


def h3(
    rows: Sequence[Measurement],
    solved: Solved,
    programs: Sequence[ProgramVerdict],
    last_step: int,
    commands: RunCommands,
    emerged: Emergence | None = None,
    of_task: Sequence[str] = (),
    otherwise: Sequence[str] = (),
) -> Hypothesis:
    """Judge H3 by the verdicts of `match` on the last checkpoint of a run.

    H3 is supported if exactly one program of at least two is followed, and not supported if none
    is. All programs in `of_task` must have been asked. `emerged` is added to the evidence. If there
    are no verdicts, `otherwise` says with which settings that are not the run's own it was matched.
    """
    testable = of(rows, "matching/testable_cuts").get("model")
    lacking: tuple[Lacking, ...] = ()
    if not programs:
        lacking = (Lacking("a verdict on every program", commands.of("match", "--all")),)
    unasked = ", ".join(sorted(set(of_task) - {candidate.program for candidate in programs}))
    if programs and unasked:
        lacking = (Lacking(f"a verdict on {unasked}", commands.of("match")),)
    known = _light(rows) if not programs else map(_of_program, programs)
    evidence = (*known, *_emerged(emerged or Emergence()))

    def say(verdict: str, why: str) -> Hypothesis:
        return Hypothesis("H3", verdict, why, ONE_SEED, evidence, _change_h3(verdict), lacking)

    other = f"the model was matched {_not_own(otherwise)}" if otherwise else ""
    if not programs and testable is None:
        unmatched = "the model was not matched with its task's programs"
        return say(NOT_MEASURED, other or unmatched)
    if solved.refusal:
        return say(NOT_JUDGED, solved.refusal)
    if not programs:
        if testable is not None and testable.value == 0:
            return say(UNDECIDED, "no inner cut of the reference program can be tested")
        light = "the checkpoints' light measure gives no verdict on programs"
        return say(NOT_MEASURED, other or light)
    steps = {candidate.step for candidate in programs}
    if steps != {last_step}:
        shown = ", ".join("unknown" if step is None else str(step) for step in sorted(
            steps, key=lambda step: -1 if step is None else step))  # fmt: skip
        return say(UNDECIDED, f"step {shown} was matched, not the last one, {last_step}")
    followed = [candidate for candidate in programs if candidate.verdict == FOLLOWS]
    names = ", ".join(candidate.program for candidate in followed)
    if any(candidate.verdict == NOT_SOLVED for candidate in programs):
        return say(NOT_JUDGED, "matching says that the model does not solve the task")
    if unasked:
        told = f"follows {names}" if followed else "follows none of the programs tested"
        return say(UNDECIDED, f"{told}, but {unasked} was not tested")
    if len(followed) == 1:
        return _one_followed(followed[0], programs, say)
    if followed:
        chosen = [
            candidate for candidate in followed
            if {other.program for other in followed} - {candidate.program} <= set(candidate.decided)
        ]  # fmt: skip
        if len(chosen) == 1 and not _unsure(chosen[0], programs):
            why = (
                f"follows {chosen[0].program}; selectors rank it before the others that share "
                "its cuts"
            )
            return say(SUPPORTED, why)
        if len(chosen) == 1:
            return say(UNDECIDED, _but_of(chosen[0], programs))
        return say(UNDECIDED, f"follows {names}: nothing tells these apart")
    if any(candidate.verdict == CUT_UNDECIDED for candidate in programs):
        unsure = ", ".join(
            candidate.program for candidate in programs if candidate.verdict == CUT_UNDECIDED
        )
        return say(UNDECIDED, f"no verdict on {unsure}, and no other program is followed")
    if all(candidate.verdict == FUSES for candidate in programs):
        return say(UNDECIDED,
            "the model does the programs' steps in one block: there is no site between them to "
            "test")  # fmt: skip
    if all(candidate.verdict in (DIFFERENT, FUSES) for candidate in programs):
        count = len(programs)
        of_all = "the one program" if count == 1 else f"any of the {count} programs"
        return say(NOT_SUPPORTED,
            f"no program was identified: the model does not run {of_all} tested with its "
            "variables as the whole residual stream")  # fmt: skip
    return say(UNDECIDED, "the verdicts on the programs are of unknown kinds")


def _one_followed(
    followed: ProgramVerdict,
    programs: Sequence[ProgramVerdict],
    say: Callable[[str, str], Hypothesis],
) -> Hypothesis:
    if followed.shared_with:
        alike = ", ".join(followed.shared_with)
        if not set(followed.shared_with) <= set(followed.decided):
            return say(UNDECIDED, f"follows {followed.program}, which shares its cuts with {alike}")
    if _unsure(followed, programs):
        return say(UNDECIDED, _but_of(followed, programs))
    others = len(programs) - 1
    if not others:
        return say(
            UNDECIDED, f"follows {followed.program}, but the task has no other program to test"
        )
    told = f"follows {followed.program} ({followed.why}), and 0 of {others} other programs"
    return say(SUPPORTED, told)


def _unsure(followed: ProgramVerdict, programs: Sequence[ProgramVerdict]) -> list[str]:
    """Return the undecided programs that selectors do not rank behind the followed one."""
    return [
        other.program
        for other in programs
        if other.verdict == CUT_UNDECIDED and other.program not in followed.decided
    ]


def _but_of(followed: ProgramVerdict, programs: Sequence[ProgramVerdict]) -> str:
    left = ", ".join(_unsure(followed, programs))
    return f"follows {followed.program}, but {left} is undecided"


def _of_program(candidate: ProgramVerdict) -> Evidence:
    says = {FOLLOWS: FOR, DIFFERENT: AGAINST}.get(candidate.verdict, NEITHER)
    value, low, high = candidate.score or (None, None, None)
    return Evidence(
        f"{candidate.program}: {candidate.verdict}", value, low, high,
        f"{candidate.testable} testable cut{'s' * (candidate.testable != 1)}",
        "chance unknown" if candidate.chance is None else f"{candidate.chance:.3f} chance", says,
        candidate.why, level=candidate.chance, kind=f"program {candidate.program}",
    )  # fmt: skip


def _emerged(emergence: Emergence) -> Iterable[Evidence]:
    """Yield as evidence when each testable cut of the reference program was first realised."""
    solved = (
        "at no checkpoint" if emergence.solved is None else f"from step {emergence.solved:,} on"
    )
    for cut, step in emergence.cuts.items():
        when = "at no checkpoint" if step is None else f"from step {step:,} on"
        yield Evidence(
            f"when {cut.replace('+', ', ')} is realised", None, None, None,
            "checkpoints, light measure",
            f"task solved {solved}", NEITHER, f"surely realised {when}", decides=False,
        )  # fmt: skip


def _light(rows: Sequence[Measurement]) -> Iterable[Evidence]:
    chances = of(rows, "matching/best_match_chance")
    realised = of(rows, "matching/realised")
    for cut, row in of(rows, "matching/best_match").items():
        chance, surely = chances.get(cut), realised.get(cut)
        why = "surely realised" if surely and surely.value == 1 else "not surely realised"
        yield Evidence(
            f"cut {cut.replace('+', ', ')}", row.value, row.ci_low, row.ci_high,
            f"light, {row.n:,} cases", f"{chance.value:.3f} chance" if chance else "", NEITHER, why,
            decides=False, level=chance.value if chance else None,
        )  # fmt: skip


def _change_h3(verdict: str) -> tuple[str, ...]:
    if verdict in (NOT_JUDGED, NOT_MEASURED):
        return ("a model that solves the task, matched with every program of it",)
    if verdict == SUPPORTED:
        return (
            "another program that is followed too, or a cut whose interval includes the "
            "threshold or chance",)  # fmt: skip
    return (
        "supported: every testable inner cut of exactly one program is surely realised, in its "
        "order",
        "the model may run another program: add alternatives in `task.alternatives`",
    )


def over_seeds(
    name: str,
    each: Mapping[int, Hypothesis],
    repeated: bool = False,
    estimates: Sequence[Estimate] = (),
) -> Hypothesis:
    """Judge a hypothesis over the seeds of one architecture, from the verdict on each seed.

    `estimates` are differences that must also be above zero over the seeds. `repeated` says that a
    seed has several runs: these are not independent evidence.
    """
    counts = Counter(hypothesis.verdict for hypothesis in each.values())
    n = len(each)
    told = ", ".join(f"{word} {count} of {n}" for word, count in counts.most_common())
    lacking = _together(part for hypothesis in each.values() for part in hypothesis.lacking)
    evidence = [_share_of_seeds(word, count, n) for word, count in counts.most_common()]
    evidence += [_over_seeds(estimate) for estimate in estimates]
    scope = ONE_SEED if n == 1 else f"{n} seeds: {', '.join(map(str, sorted(each)))}"

    def say(verdict: str, why: str) -> Hypothesis:
        change = (f"the same verdict on every one of at least {LEAST_SEEDS} seeds",)
        return Hypothesis(name, verdict, why, scope, tuple(evidence), change, lacking)

    judged = counts.total() - counts[NOT_JUDGED] - counts[NOT_MEASURED]
    if not judged:
        word = NOT_MEASURED if counts[NOT_MEASURED] else NOT_JUDGED
        reasons = "; ".join(dict.fromkeys(hypothesis.why for hypothesis in each.values()))
        return say(word, f"{told}: {reasons}")
    if n == 1:
        return say(UNDECIDED, f"{ONE_SEED} (it alone: {told.partition(' 1 of')[0]})")
    if counts[SUPPORTED] and counts[NOT_SUPPORTED]:
        return say(MIXED, f"the seeds disagree: {told}")
    if repeated:
        return say(UNDECIDED, f"{told}, but runs of the same seed are not independent evidence")
    if n < LEAST_SEEDS:
        return say(UNDECIDED, f"{told}: too few seeds, at least {LEAST_SEEDS} are needed")
    if counts[SUPPORTED] == n:
        if any(_sign(*(estimate.interval or (None, None))) != FOR for estimate in estimates):
            return say(UNDECIDED, f"{told}, but over the seeds an interval includes zero")
        return say(SUPPORTED, told)
    if counts[NOT_SUPPORTED] == n:
        return say(NOT_SUPPORTED, told)
    return say(MIXED if counts[MIXED] == n else UNDECIDED, told)


def _together(every: Iterable[Lacking]) -> tuple[Lacking, ...]:
    """Merge duplicates of what is lacking, each with all the commands that measure it."""
    commands: dict[str, dict[str, None]] = {}
    for lacking in every:
        commands.setdefault(lacking.what, {})[lacking.command] = None
    return tuple(Lacking(what, "\n".join(lines)) for what, lines in commands.items())


def _share_of_seeds(word: str, count: int, n: int) -> Evidence:
    low, high = wilson_interval(count / n, n) if n > 1 else (None, None)
    return Evidence(f"seeds: {word}", count / n, low, high, f"{n} seeds", "", NEITHER)


def _over_seeds(estimate: Estimate) -> Evidence:
    low, high = estimate.interval or (None, None)
    name = estimate.key.rpartition("/")[2].removeprefix("h1_")
    label = f"{NEURON_LABELS.get(name, name)}: reference minus model, over seeds"
    return Evidence(label, estimate.mean, low, high, f"{estimate.n} seeds", "0", _sign(low, high))
