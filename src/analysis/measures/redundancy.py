"""Which components a model can do without: joint sets, the verdict, and sets grown greedily.

Single heads are almost always harmless one at a time, so the verdict that counts is of sets. A
component, or a set, is redundant if under every kind of ablation the exact accuracy surely (by the
lower end of the 95% interval of its change) falls by no more than a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from transformer_lens.model_bridge import TransformerBridge

from ...models.wiring import ATTENTION, HEAD, MLP, Component, Site
from ..activations import has_mlp
from ..measurements import Measurement

REDUNDANT_SET = "redundant_set"
Harm = Mapping[str, float]  # by kind of ablation, the lowest likely change of exact accuracy
Judged = Sequence[tuple[Component, Harm]]


def joint_sets(bridge: TransformerBridge) -> list[Component]:
    """Return all heads of each layer, and all attention layers, or MLPs, but one.

    Sets that are a single site, or all there is, are left out.
    """
    n_layers, n_heads = bridge.cfg.n_layers, bridge.cfg.n_heads
    components = []
    if n_heads > 1:
        for layer in range(n_layers):
            sites = tuple(Site(layer, HEAD, head) for head in range(n_heads))
            components.append(Component(f"blocks.{layer}.{HEAD}.all", sites))
    for hook in (ATTENTION, MLP) if has_mlp(bridge) else (ATTENTION,):
        for kept in range(n_layers) if n_layers > 2 else ():
            sites = tuple(Site(layer, hook) for layer in range(n_layers) if layer != kept)
            components.append(Component(f"{hook}.all_but_{kept}", sites))
    return components


def harmless(harm: Harm, margin: float) -> list[str]:
    """Return the kinds of ablation under which the exact accuracy falls by at most the margin."""
    return [kind for kind, lowest in harm.items() if lowest >= -margin]


def redundant(harm: Harm, margin: float) -> bool:
    """Return whether all kinds agree that nothing is lost."""
    return len(harmless(harm, margin)) == len(harm)


def verdicts(judged: Judged, margin: float, solved: bool) -> Iterator[Measurement]:
    """Yield how many kinds are harmless, and of a model that solves the task whether all are."""
    for component, harm in judged:
        agreeing = len(harmless(harm, margin))
        yield Measurement("ablation/harmless_kinds", component.name, agreeing, len(harm))
        if solved:
            all_agree = float(redundant(harm, margin))
            yield Measurement("ablation/redundant", component.name, all_agree, len(harm))


def units(judged: Judged) -> list[tuple[Component, Harm]]:
    """Return the heads and MLPs: the smallest components, which any set is made of."""
    return [
        (component, harm)
        for component, harm in judged
        if len(component.sites) == 1 and component.sites[0].hook in (HEAD, MLP)
    ]


def grow(judged: Judged, margin: float, harm_of: Callable[[Component], Harm]) -> Component:
    """Return a set of heads and MLPs that is redundant as a whole, grown greedily.

    Those that look redundant alone are tried in the order of the harm they do, least first: all at
    once, and where that harms, the first half and then the second, down to single ones. What is
    added stays, so that the set is redundant at every moment.
    """
    looking = [(component, harm) for component, harm in units(judged) if redundant(harm, margin)]
    order = sorted(looking, key=lambda pair: -min(pair[1].values()))
    grown = Component(REDUNDANT_SET, ())

    def add(block: list[Component]) -> None:
        nonlocal grown
        sites = (*grown.sites, *(site for component in block for site in component.sites))
        together = Component(REDUNDANT_SET, tuple(sorted(sites, key=lambda p: p.name)))
        known = len(sites) == 1  # a single one was judged before
        if known or redundant(harm_of(together), margin):
            grown = together
        elif len(block) > 1:
            add(block[: len(block) // 2])
            add(block[len(block) // 2 :])

    if order:
        add([component for component, _ in order])
    return grown


def rows_of(judged: Judged, grown: Component, margin: float) -> Iterator[Measurement]:
    """Yield which heads and MLPs are in the redundant set, and their share of all."""
    every = units(judged)
    for component, _ in every:
        inside = float(component.sites[0] in grown.sites)
        yield Measurement("ablation/in_redundant_set", component.name, inside, len(every))
    yield _share("redundant_share", (component.sites[0] in grown.sites for component, _ in every))
    yield _share("redundant_alone_share", (redundant(harm, margin) for _, harm in every))


def _share(name: str, flags: Iterable[bool]) -> Measurement:
    values = list(flags)
    return Measurement(f"ablation/{name}", "model", sum(values) / len(values), len(values))
