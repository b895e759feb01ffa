"""The reference: a compiled program as a bridge, validated against the interpreter, and cached."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tracr.rasp import rasp
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ..data.inputs import (
    APART,
    WIDEST_TOLERANCE,
    InputSet,
    Variable,
    smallest_gap,
)
from ..data.interpreter import Value
from ..data.outputs import IGNORE, Categorical, Numerical, Output, stable_text
from ..data.program_selectors import equal_values, selected
from ..data.rasp.fingerprint import fingerprint
from ..data.rasp.text import edges
from ..data.tasks import Task
from ..infra.errors import UserError, need_kind
from ..infra.files import cache_folder, write_file
from .bridges import make_native, weights_digest
from .compiling import UNEMBEDDING, Compiled, compile_program

CACHE_FORMAT = 6
LIBRARIES = ("tracr-pypi", "transformer-lens", "torch", "jax", "dm-haiku")
SHOWN = 5  # counterexamples in a message
RECHECKED = 256  # inputs on which a validation from the cache is repeated
BATCH = 4096
UNFORESEEN = -1  # place of a value that Tracr does not foresee: no output equals it
READ_TOLERANCE = 1e-3  # largest error of a right number in the residual stream


@dataclass(frozen=True)
class Validation:
    """The comparison of a compiled program with the interpreter on inputs.

    `largest_error` is for numerical outputs; None for categorical ones.
    """

    n: int
    n_wrong: int
    largest_error: float | None
    counterexamples: tuple[str, ...]
    cause: str

    @property
    def exact(self) -> bool:
        """Whether there was no wrong output."""
        return self.n_wrong == 0


@dataclass(frozen=True)
class Reference:
    """A compiled program, and its validation on the inputs."""

    inputs: InputSet
    compiled: Compiled
    validation: Validation
    from_cache: bool

    @cached_property
    def bridge(self) -> TransformerBridge:
        """The reference as a TransformerBridge that gives the input set's classes or number."""
        return self.compiled.bridge(self.inputs)

    @property
    def exact(self) -> bool:
        """Whether its output equals the interpreter's on every input."""
        return self.validation.exact


def build_reference(inputs: InputSet, allow_inexact: bool = False) -> Reference:
    """Return the reference of the inputs' task, from the cache or compiled, and validated.

    Tracr's `mlp_exactness` is chosen from the maximum length and raised until the compiled program
    agrees with the interpreter on every input. Each level is tried as it is and with hard
    attention. Validations are cached, and then repeated on a few inputs only. With `allow_inexact`,
    if no level is exact, the one with the fewest wrong inputs is returned.

    Example:
        config = algomatch.compose(["task=reverse", "task.max_length=4"])
        inputs = algomatch.input_set(algomatch.make_task(config.task), config.task)
        reference = algomatch.build_reference(inputs)

    Raises:
        UserError: Tracr cannot compile the program, or no exactness makes it agree; the message
            shows up to five counterexamples and their likely causes.
    """
    takes = "build_reference takes inputs, as algomatch.input_set(task, config.task)"
    need_kind(inputs, InputSet, takes)
    task = inputs.task
    tried: list[tuple[Validation, Compiled, bool]] = []
    for exactness in _exactness_levels(task.max_length):
        path = _cache_path(task, exactness)
        cached = _read_cache(path) if path else None
        compiled = cached or compile_program(task, exactness)
        if path and cached is None:
            _write_cache(path, compiled)
        for variant in (compiled, compiled.sharp()):
            validation = _validated(variant, inputs, path)
            tried.append((validation, variant, cached is not None))
            if validation.exact:
                return Reference(inputs, variant, validation, cached is not None)
    validation, compiled, from_cache = min(tried, key=lambda attempt: attempt[0].n_wrong)
    if not allow_inexact:
        raise UserError(_refusal(task, validation))
    return Reference(inputs, compiled, validation, from_cache)


def _refusal(task: Task, validation: Validation) -> str:
    return (
        f"task '{task.name}': the compiled reference disagrees with the RASP interpreter on "
        f"{validation.n_wrong:,} of {validation.n:,} inputs, at every mlp_exactness tried, e.g. "
        f"{'; '.join(validation.counterexamples)}; {validation.cause}. Change the program, or "
        "continue with task.allow_inexact=true, which marks every result"
    )


def _exactness_levels(max_length: int) -> tuple[int, ...]:
    """Return the levels to try; Tracr's default separates 1/n and 1/(n+1) only below length 10."""
    return (100, 1_000, 10_000) if max_length < 10 else (1_000, 10_000, 100_000)


@torch.inference_mode()
def validate(compiled: Compiled, inputs: InputSet, among: Tensor | None = None) -> Validation:
    """Run a compiled program on every input (or those `among`) and compare with the interpreter.

    The compiled program may give any foreseen value, including values that occur on no input.
    """
    model, head = (
        make_native(TransformerBridgeConfig(**compiled.shape)).eval(),
        compiled.weights[UNEMBEDDING],
    )
    model.load_state_dict(dict(compiled.weights))
    model.head = torch.nn.Identity()
    output, targets = _foreseen(compiled, inputs)
    chosen = torch.arange(len(inputs)) if among is None else among
    wrong, errors, shown = [], [0.0], list[str]()
    first_wrong: list[tuple[Tensor, Tensor]] = []
    for rows in torch.split(chosen, BATCH):
        residual = model(inputs.tokens[rows], attention_mask=inputs.key_mask[rows])
        given, defined = residual @ head.T, inputs.defined[rows]
        right = output.right(given, targets[rows]) & given.isfinite().all(-1)
        bad = (~right & defined).any(-1)
        wrong.append(bad)
        if isinstance(output, Numerical) and defined.any():
            errors.append(float((given[..., 0] - targets[rows])[defined].abs().max()))
        for at in torch.nonzero(bad)[: SHOWN - len(shown), 0].tolist():
            row = int(rows[at])
            shown.append(_shown(inputs, row, output.decode(given[at])))
        if bad.any() and not first_wrong:
            first_wrong.append((rows[bad], residual[bad]))
    return Validation(
        n=len(chosen),
        n_wrong=int(torch.cat(wrong).sum()),
        largest_error=max(errors) if isinstance(output, Numerical) else None,
        counterexamples=tuple(shown),
        cause="".join(_cause(compiled, inputs, *example) for example in first_wrong),
    )


def _foreseen(compiled: Compiled, inputs: InputSet) -> tuple[Output, Tensor]:
    """Return the output with all foreseen values as classes, and the targets among them."""
    output = inputs.output
    if isinstance(output, Numerical):  # stricter than the task: must not be another output
        gap = smallest_gap(list(inputs.variables.values())[-1])
        tolerance = min(output.tolerance, WIDEST_TOLERANCE, APART * gap)
        return Numerical(tolerance), inputs.targets
    foreseen = Categorical(compiled.outputs or ())
    places = {value: index for index, value in enumerate(foreseen.values)}
    table = torch.tensor([*(places.get(value, UNFORESEEN) for value in output.values), IGNORE])
    return foreseen, table[torch.where(inputs.defined, inputs.targets, len(output.values))]


def _shown(inputs: InputSet, row: int, decoded: list[object]) -> str:
    defined = inputs.defined[row]
    got = [value for value, there in zip(decoded, defined.tolist(), strict=True) if there]
    output, targets = inputs.output, inputs.targets[row][defined].tolist()
    wanted = targets if isinstance(output, Numerical) else [output.values[i] for i in targets]
    shown = [float(f"{v:.6g}") if isinstance(v, float) else v for v in wanted]
    return f"{inputs.listed(row)} gives {got}, the program {shown}"


def _cause(
    compiled: Compiled,
    inputs: InputSet,
    rows: Int64[Tensor, " wrong"],
    residual: Float[Tensor, "wrong pos d_model"],
) -> str:
    """Return the first wrong variable, read off the last residual stream, and the likely cause."""
    if not compiled.residual_labels:
        return "no residual dimension has a label to say which variable is wrong"
    for name, variable in inputs.variables.items():
        off = _differs(compiled, variable, name, rows, residual)
        if off is not None and off.any():
            why = _likely(inputs, rows, name, off)
            return f"the first variable to be wrong is '{name}': {why}"
    if isinstance(inputs.output, Numerical):
        return f"no number is off by more than {READ_TOLERANCE}: a numerical MLP is inexact"
    return "no variable but the output is wrong: Tracr does not foresee some of its values"


def _likely(
    every: InputSet, rows: Int64[Tensor, " wrong"], name: str, off: Bool[Tensor, "wrong pos"]
) -> str:
    """Return the likely cause of a wrong variable on these inputs, and what to write instead."""
    inputs = every.at(rows)
    sop = inputs.task.variables[name]
    read = [source for source, target, _ in edges(inputs.task.program) if target == name]
    numbers = [source for source in read if inputs.variables[source].numerical]
    if isinstance(sop, rasp.Aggregate):
        chosen = selected(inputs, {name: sop.selector})[name]
        if (off & ~chosen.any(-1)).any():
            if rasp.is_numerical(sop):
                return (
                    f"it selects nothing at some positions, where Tracr gives 0 and not its "
                    f"default {sop.default!r}: write default=0"
                )
            return (
                f"it selects nothing at some positions, where Tracr gives no category and not its "
                f"default {sop.default!r}: write no default, and it is undefined there, which "
                "counts in no loss"
            )
    selects = isinstance(sop, (rasp.Aggregate, rasp.SelectorWidth))
    undefined = [n for n in read if (inputs.real & ~inputs.variables[n].defined).any()]
    if undefined and selects and not isinstance(sop.selector, rasp.Select):
        return (
            f"it reads '{undefined[0]}', which is undefined on some inputs, where Tracr selects "
            "nothing by a composite selector: let it select a position everywhere, as in lambda "
            "key, query: key == max(query - 1, 0)"
        )
    if undefined and selects and _is_negated(sop.selector):
        return (
            f"it reads '{undefined[0]}', which is undefined on some inputs, where Tracr selects "
            "nothing and a negated selector (~) may select all: put the negation inside, as in "
            "lambda key, query: None not in (key, query) and not (...)"
        )
    if undefined and selects:
        return (
            f"it reads '{undefined[0]}', which is undefined on some inputs, where Tracr selects "
            "nothing: write a predicate that is False for None, as in lambda key, query: None not "
            "in (key, query) and key != query"
        )
    if undefined:
        return f"it reads '{undefined[0]}', which is undefined on some inputs"
    if numbers:
        return (
            f"it reads the number '{numbers[0]}', of which Tracr foresees the shares 0 and 1/n "
            "only (inexact numerical MLP): write it with counts, by rasp.SelectorWidth"
        )
    for source in read if not isinstance(sop, rasp.Aggregate) else ():
        if alike := equal_values(every, every.task.variables[source]):
            return (
                f"it reads '{source}', whose values {', '.join(map(repr, alike))} are equal, and "
                "one to Tracr: let it have values that are not equal, as texts"
            )
    if isinstance(sop, rasp.SelectorWidth):
        return "a selector width, whose MLP cannot tell 1/n from 1/(n+1), at full length first"
    if isinstance(sop, rasp.Aggregate):
        return (
            "an aggregate, which in Tracr cannot select several positions of a category: write "
            "rasp.numerical(rasp.Aggregate(selector, numbers, default=0)) for a mean, numbers "
            "being rasp.numerical(rasp.Map(float, category)), or count by rasp.SelectorWidth"
        )
    return "an MLP of Tracr's is too coarse"


def _is_negated(select: rasp.Select) -> bool:
    """Return whether a select is Tracr's form of the negation of another."""
    predicate = select.predicate
    owner = getattr(predicate, "__qualname__", "").partition(".")[0]
    return owner == "selector_not" and predicate.__module__ == rasp.__name__


def _differs(
    compiled: Compiled,
    variable: Variable,
    name: str,
    rows: Int64[Tensor, " wrong"],
    residual: Float[Tensor, "wrong pos d_model"],
) -> Bool[Tensor, "wrong pos"] | None:
    """Return where a variable's residual dimensions hold a wrong value; None without dimensions."""
    places = {label: index for index, label in enumerate(compiled.residual_labels)}
    codes, defined = variable.codes[rows].long(), variable.defined[rows]
    if variable.numerical:
        if name not in places:
            return None
        numbers = torch.tensor([float(value) for value in variable.values])  # type: ignore[arg-type]
        wanted = numbers[torch.where(defined, codes, 0)]
        return defined & ((residual[..., places[name]] - wanted).abs() > READ_TOLERANCE)
    columns = [place for label, place in places.items() if label.startswith(f"{name}:")]
    if not columns or not variable.values:
        return None
    own = [_place(places, name, value) for value in variable.values]
    held = torch.tensor(columns)[residual[..., columns].argmax(-1)]
    return defined & (held != torch.tensor(own)[torch.where(defined, codes, 0)])


def _place(places: Mapping[str, int], name: str, value: Value) -> int:
    """Return the dimension of a value; equal numbers, such as 1, 1.0 and True, share one."""
    alike: list[object] = [value if isinstance(value, str) else stable_text(value), value]
    if isinstance(value, (int, float)) and math.isfinite(value):
        alike += [number for number in (int(value), float(value), bool(value)) if number == value]
    dims = (places[label] for text in alike if (label := f"{name}:{text}") in places)
    return next(dims, UNFORESEEN)


def _validated(compiled: Compiled, inputs: InputSet, path: Path | None) -> Validation:
    """Return the validation on all inputs; a cached one if it holds on a few inputs."""
    key = f"{compiled.digest}{inputs.digest()}"
    proof = path and path.with_name(
        f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    )
    known = _read_proof(proof, key) if proof else None
    if known is not None and known.n == len(inputs):
        some = torch.unique(torch.linspace(0, len(inputs) - 1, RECHECKED).long())
        if not known.exact or validate(compiled, inputs, some).exact:
            return known
    validation = validate(compiled, inputs)
    if proof:
        text = json.dumps({"key": key, **dataclasses.asdict(validation)})
        _write(proof, json.dumps({"text": text, "digest": _sha(text)}).encode())
    return validation


def _read_proof(path: Path, key: str) -> Validation | None:
    try:
        sealed = json.loads(path.read_bytes())
        fields = json.loads(sealed["text"])
        if sealed["digest"] != _sha(sealed["text"]) or fields.pop("key") != key:
            return None
        fields["counterexamples"] = tuple(fields["counterexamples"])
        return Validation(**fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _cache_path(task: Task, mlp_exactness: int) -> Path | None:
    program = fingerprint(task.program)
    if program is None:
        return None
    versions = [version(library) for library in LIBRARIES]
    vocabulary = [repr(token) for token in task.vocabulary]
    names = list(task.variables)
    # In a causal task, rasp.length is compiled only for lists of one length.
    lengths = [task.max_length, task.causal and task.min_length == task.max_length]
    key = [CACHE_FORMAT, program, names, vocabulary, lengths, task.causal, mlp_exactness]
    digest = _sha(json.dumps([*key, versions]))[:32]
    return cache_folder("references") / f"{digest}.safetensors"


def _write_cache(path: Path, compiled: Compiled) -> None:
    header = {
        "shape": compiled.shape,
        "outputs": repr(compiled.outputs),
        "residual_labels": compiled.residual_labels,
        "mlp_exactness": compiled.mlp_exactness,
    }
    text = json.dumps(header)
    metadata = {"algomatch": text, "digest": _digest(text, compiled.weights)}
    _write(path, safetensors.torch.save(compiled.weights, metadata))


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except OSError:  # the cache is optional: the reference is compiled again
        return


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(header: str, weights: Mapping[str, Tensor]) -> str:
    return _sha(f"{header}{weights_digest(weights)}")


def _literal(node: ast.expr) -> Any:
    """Return the value of a Python literal that may contain frozensets."""
    match node:
        case ast.Tuple(elts=parts):
            return tuple(map(_literal, parts))
        case ast.Call(func=ast.Name(id="frozenset"), args=[]):
            return frozenset()
        case ast.Call(func=ast.Name(id="frozenset"), args=[ast.Set(elts=parts)]):
            return frozenset(map(_literal, parts))
    return ast.literal_eval(node)


def _read_cache(path: Path) -> Compiled | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["digest"] != _digest(metadata["algomatch"], weights):
            return None  # damaged: its outputs are not the compiler's
        header = json.loads(metadata["algomatch"])
        return Compiled(
            shape=header["shape"],
            weights=weights,
            outputs=_literal(ast.parse(header["outputs"], mode="eval").body),
            residual_labels=tuple(header["residual_labels"]),
            mlp_exactness=header["mlp_exactness"],
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, SyntaxError):
        return None
