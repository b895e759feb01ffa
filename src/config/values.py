"""The values of a config: as written in YAML or JSON, and as typed by its schema.

YAML 1.1 reads `no` as false, `1e3` as text and `12:30` as 750. Here an unquoted scalar stays as it
was typed until its key determines its type.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

import yaml

from ..infra.errors import UserError

NULLS = ("", "~", "null", "Null", "NULL")
BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "y", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "0"), False),
}
INTEGER = re.compile(r"[-+]?[0-9]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")
OTHER_INTEGER = re.compile(r"[-+]?(0[xXoObB][0-9a-fA-F_]+|[0-9][0-9_]+)")


class Plain(str):
    """An unquoted scalar, as it was typed."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads YAML and JSON, with unquoted scalars as Plain; duplicate keys are refused."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0] and value != "<<":
            return "!plain"
        return super().resolve(kind, value, implicit)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = set[str]()
        for key, _ in node.value:
            if key.value in keys and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    "while constructing a mapping", node.start_mark,
                    f"found duplicate key {key.value}", key.start_mark,
                )  # fmt: skip
            if isinstance(key, yaml.ScalarNode):
                keys.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("!plain", lambda loader, node: Plain(node.value))


def read_text(text: str) -> Any:
    """Return the content of a YAML or JSON text, with unquoted scalars as Plain.

    Raises:
        yaml.YAMLError: the text is neither.
    """
    return yaml.load(text, Loader=_Loader)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes YAML that reads back as the same values in YAML 1.1 and 1.2."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represented(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Return a text's node, quoted if another reader would take it for something else."""
    plain = Plain(text)
    quotes = None
    if not isinstance(resolved(plain), str) or _integer(plain) is not None:
        quotes = "'"
    if not text.isprintable():
        quotes = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=quotes)


_Dumper.add_representer(str, _represented)


def write_text(values: Mapping[str, Any]) -> str:
    """Return YAML that `read_text` with `resolved`, and other programs, read back."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def resolved(value: Any) -> Any:
    """Return a value with unquoted scalars resolved by the rules of YAML 1.2, without a schema.

    >>> resolved([Plain("no"), Plain("1"), Plain("1e3"), Plain("true"), Plain("null")])
    ['no', 1, 1000.0, True, None]
    """
    if isinstance(value, Mapping):
        return {str(key): resolved(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [resolved(inner) for inner in value]
    if not isinstance(value, Plain):
        return value
    if value in NULLS:
        return None
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return value.lower() == "true"
    number = _number(value)
    return str(value) if number is None else number


def as_yaml_1_1(value: Plain) -> Any:
    """Return an unquoted scalar as W&B and most other programs read it.

    >>> as_yaml_1_1(Plain("no")), as_yaml_1_1(Plain("12:30")), as_yaml_1_1(Plain("1e3"))
    (False, 750, '1e3')
    """
    loader = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, str(value), (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, str(value)))


def shown(value: Any) -> str:
    """Return a value as one line of YAML, with texts unquoted.

    >>> shown([1, None, True, "a"])
    '[1, null, true, a]'
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {shown(inner)}' for key, inner in value.items())}}}"
    return str(value)


def is_null(value: Any) -> bool:
    """Return whether a value is YAML's null."""
    return value is None or (isinstance(value, Plain) and value in NULLS)


def typed(schema: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a schema's keys, each in the type that the schema gives it.

    Raises:
        UserError: a value does not fit its key's type; the message has key, value and rule.
    """
    hints = _hints(schema)
    fields = {field.name: field for field in dataclasses.fields(schema)}
    converted = dict[str, Any]()
    for key, value in values.items():
        hint, name = hints[key], f"{prefix}{key}"
        if dataclasses.is_dataclass(hint):
            converted[key] = typed(cast(type, hint), value, f"{name}.")
        else:
            converted[key] = _value(hint, name, value, _counted(fields[key]))
    return converted


_hints = cache(get_type_hints)


def _counted(field: dataclasses.Field[Any]) -> str:
    """Return what a field's setting is, of which a whole number says how many."""
    setting = field.metadata.get("setting")
    return setting.about if setting is not None else ""


def scalar_type(schema: type, key: str) -> type | None:
    """Return the type of a dotted key's value, or of its list items; None if not a single one."""
    hint: Any = schema
    for name in key.split("."):
        hint = _hints(cast(type, hint)).get(name) if dataclasses.is_dataclass(hint) else None
    while get_origin(hint) in (UnionType, list):
        hint = next(inner for inner in get_args(hint) if inner is not type(None))
    return hint if hint in READERS else None


def typed_scalar(kind: type, value: Any) -> Any:
    """Return a value converted to a type; None if it does not fit the type."""
    return READERS[kind](value)


def _value(hint: Any, key: str, value: Any, counts: str) -> Any:
    optional = get_origin(hint) is UnionType
    if optional:
        if is_null(value):
            return None
        (hint,) = (member for member in get_args(hint) if member is not type(None))
    what = ""
    if get_origin(hint) is list:
        (inner,) = get_args(hint)
        if isinstance(value, list | tuple):
            return [
                each if inner is Any else _value(inner, f"{key}[{place}]", each, "")
                for place, each in enumerate(value)
            ]
        what = f"a list, as in '{key}=[{_listed(inner, value)}]'"
    elif not isinstance(value, list | tuple | Mapping):
        result = READERS[hint](value)
        if result is not None:
            return result
    what = what or WHAT[hint] + (f" ({counts})" if counts and hint is int else "")
    if hint is str and not isinstance(value, list | tuple | Mapping):
        what += f": quote it, {_quoted(key, shown(value))}"
    raise UserError(f"{key}={shown(value)} must be {what}{', or null' if optional else ''}")


WHAT = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _listed(inner: Any, value: Any) -> str:
    """Return an example of a list's content: the value, if it could be in the list."""
    if is_null(value) or isinstance(value, Mapping) or (inner is int and _integer(value) is None):
        return "1,2" if inner is int else "a,b"
    return shown(value)


def _integer(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if not isinstance(value, str) or not re.fullmatch(f"{INTEGER.pattern}|{OTHER_INTEGER.pattern}",
                                                      value):  # fmt: skip
        return None
    try:
        return int(value, 0 if re.match(r"[-+]?0[a-zA-Z]", value) else 10)
    except ValueError:
        return None


def _float(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and NOT_FINITE.fullmatch(value):
        value = value.replace(".", "")
    try:
        return float(value) if isinstance(value, str | int | float) else None
    except (ValueError, OverflowError):
        return None


def _boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return BOOLEANS.get(value.lower())
    return bool(value) if value in (0, 1) else None


def _text(value: Any) -> str | None:
    if is_null(value) or isinstance(value, bool):
        return None
    if isinstance(value, str | int | float):
        return str(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else None


READERS: Mapping[Any, Callable[[Any], Any]] = {
    int: _integer, float: _float, bool: _boolean, str: _text,
}  # fmt: skip


def _number(text: str) -> int | float | None:
    """Return the number that a text means in YAML 1.2."""
    if INTEGER.fullmatch(text):
        return _integer(text)
    if FLOAT.fullmatch(text) or NOT_FINITE.fullmatch(text):
        return _float(text)
    return None


def tokens(key: str, values: Sequence[Any], swept: bool = False) -> list[Any]:
    """Return a vocabulary's tokens, as they were typed.

    An unquoted token is a number if it is that number's usual text, else a text. In a sweep file,
    which W&B reads too, numbers must be written as in YAML 1.1.

    Raises:
        UserError: an unquoted token is ambiguous and should be quoted.
    """
    for place, value in enumerate(values):
        if why := _misread(value, swept):
            text = _as_typed(value)
            listed = f"[{', '.join(_again(each, swept) for each in values)}]"
            advice = f"quote it, {listed if swept else _in_a_shell(key, listed)}"
            raise UserError(f"{key}[{place}]={text}{why.replace(QUOTE, advice)}")
    return [resolved(value) for value in values]


QUOTE = "QUOTE IT"  # stands for the advice


def _misread(given: Any, swept: bool = False) -> str | None:
    """Return why a token is ambiguous, to follow its text in a message; None if it is not."""
    value = resolved(given)
    if value is None or not isinstance(value, str | int | float) or isinstance(value, bool):
        more = ""
        if isinstance(value, bool):
            more = " (unquoted, W&B reads yes, no, on and off as booleans too)"
        return f": tokens must be strings or numbers: {QUOTE}{more}"
    if not isinstance(given, Plain):
        return None
    if isinstance(value, float) and math.isnan(value):
        return f": a token must not be nan: {QUOTE}"
    if isinstance(value, float) and math.isinf(value):
        return f": a number must be finite: {QUOTE}"
    number = _integer(given) if isinstance(value, str) else value
    if number is None:
        return None
    written = _in_yaml(number)
    if not isinstance(value, str) and given in ((written,) if swept else (written, repr(value))):
        return None
    return f" may be a text or the number {written}: write {written}, or {QUOTE}"


def _in_yaml(number: float) -> str:
    return str(yaml.safe_dump(number)).splitlines()[0]


def _as_typed(value: Any) -> str:
    """Return a token's text; `a: b`, which YAML reads as a mapping, gets no braces.

    >>> _as_typed({"a": "b"}), _as_typed(1)
    ('a: b', '1')
    """
    return shown(value)[1:-1] if isinstance(value, Mapping) and len(value) == 1 else shown(value)


def _again(value: Any, swept: bool = False) -> str:
    """Return a token as it can be typed in a list, quoted if necessary."""
    if isinstance(value, str) and not isinstance(value, Plain):
        return _in_quotes(value)
    return _in_quotes(_as_typed(value)) if _misread(value, swept) else shown(value)


def escape_references(text: str) -> str:
    r"""Return a text escaped for typing, so that a `${...}` in it is not a reference.

    >>> print(escape_references("a${x}"))
    a\${x}
    """
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _in_quotes(text: str) -> str:
    """Return a text in YAML's quotes.

    >>> _in_quotes("it's")
    "'it''s'"
    """
    escaped = escape_references(text)
    if not text.isprintable():
        return json.dumps(escaped)
    return "'" + escaped.replace("'", "''") + "'"


def _quoted(key: str, text: str) -> str:
    """Return a quoted text, as written in a file and as a shell argument."""
    return _in_a_shell(key, _in_quotes(text))


def _in_a_shell(key: str, text: str) -> str:
    argument = f'"{key}={text}"'
    if set('"$`!\\') & set(text):
        argument = shlex.quote(f"{key}={text}")
    return f"{text} (in a shell {argument})"


def unclosed(text: str) -> bool:
    """Return whether a text has an unclosed bracket, not counting quoted ones.

    >>> unclosed("task.vocabulary=[a,"), unclosed("task.vocabulary=['[',a]")
    (True, False)
    """
    depth, quote = 0, ""
    for before, letter in zip(f" {text}", text, strict=False):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and before in "[{,: =":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
    return depth > 0
