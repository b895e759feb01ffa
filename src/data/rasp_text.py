"""A RASP program as text: names for its variables, a line for each, and its dataflow graph."""

from __future__ import annotations

import ast
import dis
import enum
import functools
import keyword
import linecache
import re
import sys
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from tracr.rasp import rasp

_LONGEST_NAME = 60
_LONGEST_DERIVED_NAME = 40
_LONGEST_FUNCTION = 10_000
_LONGEST_VALUE = 400
_MOST_STAGES = 1_000
_MOST_ITEMS = 50
_DEEPEST_VALUE = 3

_SYMBOLS = {
    "lt": "<",
    "le": "<=",
    "eq": "==",
    "ne": "!=",
    "gt": ">",
    "ge": ">=",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "truediv": "/",
    "and": "and",
    "or": "or",
}
# What rasp's own functions compute, by the method that makes them and their number of arguments:
# x and y are the arguments, c is the constant.
_OPERATIONS = {
    **{(f"SOp.__{name}__", 1): f"x {symbol} c" for name, symbol in _SYMBOLS.items()},
    **{(f"SOp.__r{name}__", 1): f"c {symbol} x" for name, symbol in _SYMBOLS.items()},
    **{(f"SOp.__{name}__", 2): f"x {symbol} y" for name, symbol in _SYMBOLS.items()},
    **{(f"SOp.__r{name}__", 2): f"x {symbol} y" for name, symbol in _SYMBOLS.items()},
    ("SOp.__ror__", 1): "x or c",
    ("SOp.__invert__", 1): "not x",
    ("sop_not", 1): "not x",
}
_ONE_WORD = r"[\w.]+(\(.*\)|\[.*\]|\{.*\})?"
_INPUTS = (rasp.tokens, rasp.indices)


def variables(program: Any) -> dict[str, Any]:
    """Return a program's variables, name to s-op, inputs first and the output last.

    An unnamed s-op is named by what it computes from its inputs' names. Names are unique and the
    same in every process, and hold no space, control character, '/' or '@'.
    """
    expressions = _expressions(program)
    names = _Names(expressions).of_sops
    return {names[id(sop)]: sop for sop in expressions if isinstance(sop, rasp.SOp)}


def describe(program: Any) -> list[str]:
    """Return the program as RASP text, a line per variable but tokens and indices.

    A selector that is named or used more than once has a line of its own. `x: number` is an
    s-op with numerical encoding.
    """
    expressions = _expressions(program)
    names = _Names(expressions)
    of_selectors = names.of_selectors(_shown_selectors(expressions))
    writer = _Writer({**names.of_sops, **of_selectors})
    written = {**names.of_sops, **of_selectors}
    lines = (
        f"{written[id(one)]}{_mark(one)} = {_run(writer.definition(one))}"
        for one in expressions
        if written.get(id(one), "tokens") not in ("tokens", "indices")
    )
    return [re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", line) for line in lines]


def edges(program: Any) -> list[tuple[str, str, str]]:
    """Return the dataflow between variables: source, target and role, in program order.

    The role is `value`, or `key` or `query` where the source reaches the target by a selector.
    """
    named = variables(program)
    names = {id(sop): name for name, sop in named.items()}
    found: dict[tuple[str, str, str], None] = {}
    for target, sop in named.items():
        for source, role in _sources(sop):
            if id(source) in names:
                found[names[id(source)], target, role] = None
    return list(found)


def _sources(sop: Any) -> Iterator[tuple[Any, str]]:
    waiting, visited = [(sop, "value")], set()
    while waiting:
        expression, role = waiting.pop()
        if isinstance(expression, rasp.SOp) and expression is not sop:
            yield expression, role
        elif id(expression) not in visited:
            visited.add(id(expression))
            selects = isinstance(expression, rasp.Select)
            roles = ("key", "query") if selects else ("value",) * len(expression.children)
            waiting += reversed(list(zip(expression.children, roles, strict=True)))


def _expressions(program: Any) -> list[Any]:
    """Return every expression once, depth first, each after what it is made from."""
    found: list[Any] = []
    visited = {id(program)}
    path = [(program, iter(program.children))]
    while path:
        expression, children = path[-1]
        for child in children:
            if id(child) not in visited:
                visited.add(id(child))
                path.append((child, iter(child.children)))
                break
        else:
            found.append(expression)
            path.pop()
    return found


def _shown_selectors(expressions: Sequence[Any]) -> list[Any]:
    uses = {id(expressions[-1]): 2}
    for expression in expressions:
        for child in expression.children:
            uses[id(child)] = uses.get(id(child), 0) + 1
    selectors = (one for one in expressions if isinstance(one, rasp.Selector))
    return [one for one in selectors if _given_name(one) or uses[id(one)] > 1]


def _mark(expression: Any) -> str:
    return ": number" if _is_numerical(expression) else ""


def _is_numerical(expression: Any) -> bool:
    return isinstance(expression, rasp.SOp) and bool(rasp.is_numerical(expression))


# Names


class _Label(NamedTuple):
    text: str
    compound: bool = False  # an operator stands outside all brackets

    @property
    def operand(self) -> str:
        return f"({self.text})" if self.compound else self.text


class _Names:
    """The names of a program's expressions, by id."""

    def __init__(self, expressions: Sequence[Any]):
        self.of_sops: dict[int, str] = {}
        self._labels: dict[int, _Label] = {}
        self._reserved = {_given_name(one) for one in expressions if isinstance(one, rasp.SOp)}
        self._reserved |= {"tokens", "indices"}
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}
        for primitive in _INPUTS:
            self._name_input(primitive, expressions)
        for expression in expressions:
            if id(expression) not in self._labels:
                self._add(expression)

    def of_selectors(self, selectors: Iterable[Any]) -> dict[int, str]:
        """Return a name for each of the selectors, none of them a variable's."""
        return {id(one): self._unique(self._labels[id(one)].text, False) for one in selectors}

    def _name_input(self, primitive: Any, expressions: Sequence[Any]) -> None:
        plain = [one for one in expressions if _is_input(one, primitive)]
        for sop in sorted(plain, key=lambda one: one is not primitive)[:1]:
            self._labels[id(sop)] = _Label(primitive.name)
            self.of_sops[id(sop)] = primitive.name
            self._taken.add(primitive.name)

    def _add(self, expression: Any) -> None:
        given = _given_name(expression)
        derived = None if given else self._derived(expression)
        label = derived or _Label(given, not re.fullmatch(_ONE_WORD, given))
        if isinstance(expression, rasp.SOp):
            own = bool(given) and given not in ("tokens", "indices")
            label = label._replace(text=self._unique(label.text, own))
            self.of_sops[id(expression)] = label.text
        self._labels[id(expression)] = label

    def _unique(self, name: str, may_be_reserved: bool) -> str:
        if name not in self._taken and (may_be_reserved or name not in self._reserved):
            self._taken.add(name)
            return name
        count, numbered = self._counts.get(name, 1), name
        while numbered in self._taken or numbered in self._reserved:
            count += 1
            suffix = f"_{count}"
            numbered = name[: _LONGEST_NAME - len(suffix)] + suffix
        self._counts[name] = count
        self._taken.add(numbered)
        return numbered

    def _derived(self, expression: Any) -> _Label:
        label = self._computed(expression)
        label = label._replace(text=_clean(label.text))
        return label if len(label.text) <= _LONGEST_DERIVED_NAME else _short_label(expression)

    def _computed(self, expression: Any) -> _Label:
        inputs = [self._labels.get(id(child), _Label("_")) for child in expression.children]
        if isinstance(expression, rasp.Map):
            for stage in _stages(expression.f):
                inputs = [_applied(stage, inputs, "map")]
            return inputs[0]
        if isinstance(expression, rasp.LinearSequenceMap):
            return _call("linear", inputs)
        if isinstance(expression, rasp.SequenceMap):
            return _applied(expression.f, inputs, "sequence_map")
        if isinstance(expression, rasp.Select):
            if expression.predicate is rasp.Comparison.TRUE:
                return _Label("all")
            if expression.predicate is rasp.Comparison.FALSE:
                return _Label("none")
            return _applied(expression.predicate, inputs, "select")
        if isinstance(expression, rasp.SelectorNot):
            return _operation_label(["not", inputs[0]])
        if isinstance(expression, (rasp.SelectorAnd, rasp.SelectorOr)):
            word = "and" if isinstance(expression, rasp.SelectorAnd) else "or"
            return _operation_label([inputs[0], word, inputs[1]])
        if isinstance(expression, rasp.Full):
            return _Label(f"full({_constant(expression.fill)})")
        short = _short_label(expression)
        return _call(short.text, inputs) if inputs else short


def _is_input(expression: Any, primitive: Any) -> bool:
    plain = type(expression) is type(primitive) and not _is_numerical(expression)
    return plain and not _given_name(expression)


def _given_name(expression: Any) -> str:
    """Return the name the user gave, cleaned, or nothing."""
    name = expression.name
    return "" if name == rasp.default_name(expression) else _clean(_without_address(str(name)))


def _short_label(expression: Any) -> _Label:
    if isinstance(expression, rasp.Aggregate) and _is_numerical(expression):
        return _Label("mean")
    kind = rasp.default_name(expression)
    if kind in ("sop", "selector"):
        kind = _clean(type(expression).__name__)
    return _Label({"selector_width": "width", "constant_sop": "constant"}.get(kind, kind))


def _clean(name: str) -> str:
    """Return the name without what paths, metric names and back quotes cannot hold."""
    name = re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", name)
    name = name.replace("/", "÷").replace("@", "_at_").replace("`", "'")
    kept = (c if c.isprintable() and not c.isspace() else "_" for c in name)
    return "".join(kept)[:_LONGEST_NAME]


def _applied(function: Any, inputs: Sequence[_Label], otherwise: str) -> _Label:
    operation = _operation(function, len(inputs))
    if operation is None:
        return _call(_real_name(function) or otherwise, inputs)
    template, constant = operation
    known = dict(zip("xy", inputs, strict=False)) | {"c": _Label(_constant(constant))}
    return _operation_label([known.get(word, word) for word in template.split()])


def _operation_label(words: Sequence[_Label | str]) -> _Label:
    parts = []
    for word in words:
        if isinstance(word, _Label):
            parts.append(word.operand)
        else:
            parts.append({"not": "not_", "and": "_and_", "or": "_or_"}.get(word, word))
    return _Label("".join(parts), True)


def _call(function: str, inputs: Iterable[_Label]) -> _Label:
    return _Label(f"{function}({','.join(one.text for one in inputs)})")


def _constant(value: Any) -> str:
    return (
        re.sub(r"\s", "_", value) if isinstance(value, str) and value else _Writer({}).show(value)
    )


def _real_name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = _attribute(function, "__name__")
    named = isinstance(name, str) and name.isidentifier() and not _rasp_maker(function)
    return name if named else ""


# Functions


def _stages(function: Any) -> list[Any]:
    """Return the functions of merged maps, the first applied first."""
    waiting, found = [function], list[Any]()
    while waiting and len(found) < _MOST_STAGES:
        one = waiting.pop()
        if _rasp_maker(one) == "Map.__init__":
            cells = _closure(one)
            waiting += [cells["f"], cells["inner_f"]]
        else:
            found.append(one)
    return found


def _operation(function: Any, arity: int) -> tuple[str, Any] | None:
    """Return how an operator of rasp's is written, and its constant."""
    if isinstance(function, rasp.Comparison):
        symbol = function.value
        return None if symbol.isalpha() or arity != 2 else (f"x {symbol} y", None)
    template = _OPERATIONS.get((_rasp_maker(function), arity))
    return None if template is None else (template, _closure(function).get("other"))


def _rasp_maker(function: Any) -> str:
    """Return which function of rasp's made this one, if any did."""
    if isinstance(function, FunctionType) and function.__globals__ is vars(rasp):
        maker, inside, _ = function.__qualname__.partition(".<locals>")
        return maker if inside else ""
    return ""


def _closure(function: FunctionType) -> dict[str, Any]:
    values = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # not yet bound
            continue
    return values


def _defaults(function: FunctionType) -> dict[str, Any]:
    code, values = function.__code__, function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    named = dict(zip(positional[len(positional) - len(values) :], values, strict=True))
    return {**named, **(function.__kwdefaults__ or {})}


def _global_data(function: FunctionType) -> dict[str, Any]:
    names = dict.fromkeys(_global_names(function.__code__))
    known = {name: function.__globals__[name] for name in names if name in function.__globals__}
    return {
        name: value
        for name, value in known.items()
        if not callable(value) and not isinstance(value, ModuleType)
    }


def _global_names(code: CodeType) -> Iterator[str]:
    waiting = [code]
    while waiting:
        one = waiting.pop()
        loads = (step for step in dis.get_instructions(one) if step.opname == "LOAD_GLOBAL")
        yield from (step.argval for step in loads)
        waiting += (constant for constant in one.co_consts if isinstance(constant, CodeType))


def _lambda_node(function: FunctionType) -> tuple[ast.Lambda, list[str]] | None:
    """Return a lambda's syntax and the lines of its file, if the file still holds it."""
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    nodes, codes = _lambdas("".join(lines))
    if _essence(code) not in codes:
        return None
    places = [p for p in code.co_positions() if None not in p and p[2:] != (0, 0)]
    around = [
        node
        for node in nodes
        if node.lineno == code.co_firstlineno and all(_holds(node.body, p) for p in places)
    ]
    if not around or (not places and len(around) > 1):
        return None
    return min(around, key=_extent), lines


def _holds(node: ast.expr, place: tuple[Any, Any, Any, Any]) -> bool:
    first, last, start, end = place
    begins = (node.lineno, node.col_offset) <= (first, start)
    return begins and (last, end) <= (node.end_lineno, node.end_col_offset)


def _extent(node: ast.Lambda) -> tuple[int, int]:
    lines = (node.end_lineno or node.lineno) - node.lineno
    return lines, (node.end_col_offset or 0) - (0 if lines else node.col_offset)


@functools.lru_cache(maxsize=32)
def _lambdas(source: str) -> tuple[list[ast.Lambda], set[Any]]:
    """Return the lambdas of a file: their syntax, and the essence of their code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
            waiting = [compile(tree, "<source>", "exec", dont_inherit=True)]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return [], set()
    codes = set()
    while waiting:
        code = waiting.pop()
        codes.add(_essence(code))
        waiting += (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)], codes


def _essence(code: CodeType) -> tuple[Any, ...]:
    constants = (None if isinstance(c, CodeType) else (type(c), c) for c in code.co_consts)
    names = (code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_firstlineno, code.co_code, *constants, *names)


def _lambda_source(function: FunctionType) -> tuple[str, set[str]] | None:
    """Return a lambda's source on one line, and the arguments whose defaults it spells out."""
    try:
        found = _lambda_node(function)
        if found is None:
            return None
        node, lines = found
        if node.lineno == node.end_lineno:
            line = lines[node.lineno - 1].encode()
            text = line[node.col_offset : node.end_col_offset].decode()
        else:
            text = ast.unparse(node)
    except (OSError, ValueError, IndexError, RecursionError):
        return None
    positional = [*node.args.posonlyargs, *node.args.args]
    given = zip(reversed(positional), reversed(node.args.defaults), strict=False)
    by_name = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    spelt = {arg.arg for arg, default in (*given, *by_name) if isinstance(default, ast.Constant)}
    return text, spelt


def _attribute(value: Any, name: str) -> Any:
    try:
        return getattr(value, name, None)
    except Exception:  # a user's property may do anything
        return None


# Text


class _Text(str):
    """Text and how loosely it hangs together: 0 a name, 1 an operation or lambda, 2 more."""

    looseness: int

    def __new__(cls, text: str, looseness: int = 0) -> _Text:
        self = super().__new__(cls, text)
        self.looseness = looseness
        return self

    def inside(self, most: int = 0) -> str:
        return str(self) if self.looseness <= most else f"({self})"


_Steps = Generator[Any, Any, Any]  # returns a _Text, but for `_each`


def _run(steps: _Steps) -> str:
    """Run a generator that yields generators for their results: recursion of any depth."""
    path: list[_Steps] = [steps]
    answer: Any = None
    while path:
        try:
            path.append(path[-1].send(answer))
            answer = None
        except StopIteration as end:
            path.pop()
            answer = end.value
    return str(answer)


def _each(several: Iterable[_Steps]) -> _Steps:
    """Return the list of what several generators return."""
    texts = []
    for steps in several:
        text = yield steps
        texts.append(text)
    return texts


class _Writer:
    """Writes expressions, referring to those that have a name by it."""

    def __init__(self, names: dict[int, str]):
        self._names = names
        self._functions: dict[int, tuple[Any, _Text]] = {}

    def definition(self, expression: Any) -> _Steps:
        """Return what stands right of an expression's equals sign."""
        if isinstance(expression, rasp.Map):
            text = self._reference(expression.inner)
            for stage in _stages(expression.f):
                text = yield self._applied("map", stage, [text])
            return text
        if isinstance(expression, rasp.LinearSequenceMap):
            inputs = map(self._reference, expression.children)
            factors = [expression.fst_fac, expression.snd_fac]
            return _Text(f"linear_sequence_map({', '.join([*inputs, *map(self.show, factors)])})")
        if isinstance(expression, rasp.SequenceMap):
            inputs = map(self._reference, expression.children)
            return (yield self._applied("sequence_map", expression.f, list(inputs)))
        if isinstance(expression, rasp.Select):
            keys, queries = map(self._reference, expression.children)
            predicate = yield self._function(expression.predicate)
            return _Text(f"select(keys={keys}, queries={queries}, {predicate})")
        if isinstance(expression, (rasp.TokensType, rasp.IndicesType, rasp.LengthType)):
            return _Text(f"rasp.{rasp.default_name(expression)}")
        if isinstance(expression, rasp.Full):
            return _Text(f"full({self.show(expression.fill)})")
        if isinstance(expression, (rasp.ConstantSOp, rasp.ConstantSelector)):
            return _Text(f"{rasp.default_name(expression)}({self.show(expression.value)})")
        parts = yield _each(map(self._selector_or_name, expression.children))
        if isinstance(expression, rasp.Aggregate) and expression.default is not None:
            parts.append(f"default={self.show(expression.default)}")
        kind = rasp.default_name(expression)
        kind = type(expression).__name__ if kind in ("sop", "selector") else kind
        return _Text(f"{kind}({', '.join(parts)})")

    def show(self, value: Any) -> str:
        """Return a value as text that is the same in every process."""
        return _run(self.value(value))

    def value(self, value: Any, depth: int = 0) -> _Steps:
        """Return a value as text, containers item by item."""
        if isinstance(value, rasp.RASPExpr):
            return self._reference(value)
        if isinstance(value, enum.Enum):
            return _Text(f"{type(value).__name__}.{value.name}")
        if type(value) in (list, tuple, set, frozenset, dict):
            return _cut((yield self._container(value, depth)), _LONGEST_VALUE)
        if callable(value):
            return _Text((yield self._function(value)).inside())
        plain = _listed(value)
        if plain is not value and depth <= _DEEPEST_VALUE:
            return (yield self.value(plain, depth + 1))
        return _cut(_object(value), _LONGEST_VALUE)

    def _container(self, value: Any, depth: int) -> _Steps:
        brackets = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
        if not value and type(value) in (set, frozenset):
            return _Text("set()")
        if depth > _DEEPEST_VALUE:
            return _Text(f"{brackets[0]}…{brackets[1]}")
        ordered = isinstance(value, (list, tuple, dict))
        items = list(value)[: _MOST_ITEMS if ordered else None]
        texts = yield _each(self.value(item, depth + 1) for item in items)
        if isinstance(value, dict):
            values = yield _each(self.value(value[item], depth + 1) for item in items)
            texts = [f"{key}: {text}" for key, text in zip(texts, values, strict=True)]
        elif not ordered:
            texts = sorted(texts)[:_MOST_ITEMS]
        if len(value) > _MOST_ITEMS:
            texts.append("…")
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return _Text(f"{brackets[0]}{', '.join(texts)}{comma}{brackets[1]}")

    def _reference(self, expression: Any) -> _Text:
        name = self._names.get(id(expression))
        if name is None:
            return _Text(f"<{type(expression).__name__}>")
        plain = name.isidentifier() and not keyword.iskeyword(name)
        return _Text(name if plain else f"`{name}`")

    def _selector_or_name(self, expression: Any) -> _Steps:
        if id(expression) in self._names or not isinstance(expression, rasp.Selector):
            return self._reference(expression)
        return (yield self.definition(expression))

    def _applied(self, kind: str, function: Any, inputs: list[_Text]) -> _Steps:
        operation = _operation(function, len(inputs))
        if operation is None:
            text = yield self._function(function)
            return _Text(f"{kind}({', '.join([text.inside(1), *inputs])})")
        template, constant = operation
        known = {name: text.inside() for name, text in zip("xy", inputs, strict=False)}
        known["c"] = self.show(constant)
        return _Text(" ".join(known.get(word, word) for word in template.split()), 1)

    def _function(self, function: Any) -> _Steps:
        if isinstance(function, rasp.Comparison):
            return _Text(function.value.upper())
        if id(function) not in self._functions:
            # What it refers to may refer back to it.
            self._functions[id(function)] = (function, _Text(_real_name(function) or "<function>"))
            text = _cut((yield self._written(function)), _LONGEST_FUNCTION)
            self._functions[id(function)] = (function, text)
        return self._functions[id(function)][1]

    def _written(self, function: Any) -> _Steps:
        if isinstance(function, FunctionType):
            composed = _COMPOSED.get(_rasp_maker(function))
            return (yield (composed or _Writer._free_standing)(self, function))
        if isinstance(function, functools.partial):
            parts = yield _each(map(self.value, (function.func, *function.args)))
            values = yield _each(map(self.value, function.keywords.values()))
            parts += [
                f"{name}={text}" for name, text in zip(function.keywords, values, strict=True)
            ]
            return _Text(f"partial({', '.join(parts)})")
        name, owner = _attribute(function, "__name__"), _attribute(function, "__self__")
        if not isinstance(name, str):
            return _object(function)
        if owner is None or isinstance(owner, ModuleType):
            return _Text(name)
        return _Text(f"{(yield self.value(owner))}.{name}")

    def _free_standing(self, function: FunctionType) -> _Steps:
        known = {**_closure(function), **_global_data(function), **_defaults(function)}
        text = _Text(function.__name__ if function.__name__.isidentifier() else "<function lambda>")
        if function.__name__ == "<lambda>" and (found := _lambda_source(function)):
            text = _Text(found[0], 1)
            known = {name: value for name, value in known.items() if name not in found[1]}
        values = []
        for name, value in known.items():
            shown = yield self.value(value)
            if shown != name:
                values.append(f"{name} = {shown}")
        return _Text(f"{text} where {', '.join(values)}", 2) if values else text

    def _negated(self, function: FunctionType) -> _Steps:
        predicate = yield self._function(_closure(function)["inner"].predicate)
        return _Text(f"not {predicate.inside()}", 2)

    def _combined(self, function: FunctionType) -> _Steps:
        cells = _closure(function)
        if "combine" not in cells:
            return (yield self._filled(function))
        first = yield self._function(cells["fst_predicate"])
        second = yield self._function(cells["snd_predicate"])
        word = "and" if _rasp_maker(cells["combine"]) == "selector_and" else "or"
        return _Text(f"{first.inside()} {word} {second.inside()}", 2)

    def _filled(self, function: FunctionType) -> _Steps:
        """Write a predicate one side of which is a full s-op's constant."""
        (select,) = _closure(function).values()
        side = "key" if "keys" in function.__code__.co_names else "query"
        full = select.keys if side == "key" else select.queries
        predicate = yield self._function(_defaults(function)["p"])
        return _Text(f"{predicate.inside()} with {side}={self.show(full.fill)}", 2)


_COMPOSED = {"selector_not": _Writer._negated, "_attempt_simplify": _Writer._combined}


def _object(value: Any) -> _Text:
    """Return an object's own text if that is known to be stable, else its type's name."""
    kind = type(value)
    if kind.__module__.partition(".")[0] in sys.stdlib_module_names:
        try:
            text = repr(value)
        except Exception:  # such as an int of too many digits
            text = ""
        if text and text == _without_address(text):
            return _Text(text)
    return _Text(f"<{kind.__name__}>")


def _listed(value: Any) -> Any:
    """Return a small array, or a number of an array library's, as Python's own values."""
    size = _attribute(value, "size")
    if isinstance(size, int) and size <= _LONGEST_VALUE:
        try:
            return value.tolist()
        except Exception:  # not an array after all
            return value
    return value


def _without_address(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _cut(text: _Text, longest: int) -> _Text:
    return text if len(text) <= longest else _Text(f"{text[:longest]}…", text.looseness)
