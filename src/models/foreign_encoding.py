"""A task's inputs in another model's own tokens, and that model's logits as the task's outputs.

The model is any TransformerBridge with a token embedding. An *encoder* maps a list to the model's
token ids: a constant prefix (BOS or a prompt), then one token for each element. The last token of
the prefix plays the part of BOS. A *reader* maps an output to the id of its logit. The model's
answer at an element's position is the task's output with the largest logit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import index
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from ..data.inputs import InputSet
from ..data.interpreter import Value
from ..data.outputs import Categorical
from ..data.user_functions import where_raised
from ..infra.errors import UserError, first_line
from .continuation import residual_stream, without_hooks
from .task_model import TaskModel

Encode = Callable[[list[Any]], Sequence[int]]  # maps a list to the ids of the model's whole input
Read = Callable[[Any], int]  # maps an output to the id of its logit


def encoded_task_model(
    bridge: TransformerBridge, inputs: InputSet, encode: Encode, read: Read | None = None
) -> TaskModel:
    """Return a model as a task's inputs meet it through an encoder.

    Without `read`, an output's logit is at the id of the token equal to it.

    Raises:
        UserError: the encoder, the reader, the model and the task do not fit each other.
    """
    _check_model(bridge)
    if not isinstance(inputs.output, Categorical):
        raise UserError(
            f"the outputs of task '{inputs.task.name}' are numbers: a model that is read by its "
            "logits can only be matched with tasks whose outputs are classes"
        )
    lists = [inputs.listed(row) for row in range(len(inputs))]
    rows = [_called(encode, "encoder", tokens, _ids) for tokens in lists]
    prefix = _prefix(lists, rows)
    ids = _token_ids(lists, rows, len(prefix), bridge)
    _check_context(bridge, inputs, len(prefix))
    classes = _class_ids(inputs.output.values, ids, read, int(bridge.cfg.d_vocab_out))
    own = len(prefix) + inputs.task.max_length
    tokens = [[*row, *prefix[:1] * (own - len(row))] for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    return TaskModel(
        without_hooks(bridge),
        torch.tensor(tokens),
        torch.arange(own) < lengths[:, None],
        lead=len(prefix) - 1,
        classes=torch.tensor(classes),
    )


def _check_model(bridge: TransformerBridge) -> None:
    if not hasattr(bridge, "embed"):
        raise UserError("the model has no token embedding: it cannot read a task's lists")
    sites = residual_stream(bridge)
    layers = range(bridge.cfg.n_layers)
    needed = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in layers)]
    missing = [site for site in needed if site not in sites]
    if missing:
        raise UserError(
            f"the model does not expose its residual stream at {missing[0]}: it has no such hook"
        )
    if any(module.training for module in without_hooks(bridge).modules()):
        raise UserError("the model is in training mode, where dropout is random: call its eval()")


def _called(function: Callable[..., Any], what: str, given: Any, read: Callable[..., Any]) -> Any:
    """Call the user's function and convert its return value with `read`.

    Raises:
        UserError: it raises, or returns something of the wrong type.
    """
    try:
        returned = function(given)
    except Exception as error:
        code = getattr(function, "__code__", None)
        line = where_raised(error, code.co_filename) if code else ""
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"the {what} raises on {given!r}{line}: {reason}") from error
    try:
        return read(returned)
    except (TypeError, RuntimeError, ValueError) as error:
        wanted = "an id, a whole number" if read is index else "a list of ids, whole numbers"
        raise UserError(
            f"the {what} must return {wanted}: for {given!r} it returned "
            f"{type(returned).__name__} {' '.join(repr(returned).split())[:80]}"
        ) from error


def _ids(returned: Iterable[Any]) -> list[int]:
    return [index(token_id) for token_id in returned]


def _prefix(lists: Sequence[list[Value]], rows: Sequence[list[int]]) -> list[int]:
    """Return the prefix that comes before each list."""
    extra = len(rows[0]) - len(lists[0])
    for tokens, row in zip(lists, rows, strict=True):
        if len(row) <= len(tokens):
            raise UserError(
                f"the encoder returned {row} for {tokens}: there must be a prefix of at least one "
                "id, BOS or a prompt, and then one id for each token"
            )
        if len(row) - len(tokens) != extra:
            raise UserError(
                f"the encoder returned {rows[0]} for {lists[0]}, but {row} for {tokens}: after a "
                "prefix that is always the same there must be exactly one id for each token"
            )
    for tokens, row in zip(lists, rows, strict=True):
        if row[:extra] != rows[0][:extra]:
            raise UserError(
                f"the encoder's prefix is {rows[0][:extra]} before {lists[0]}, but {row[:extra]} "
                f"before {tokens}: it must always be the same"
            )
    return rows[0][:extra]


def _token_ids(
    lists: Sequence[list[Value]], rows: Sequence[list[int]], start: int, bridge: TransformerBridge
) -> dict[Value, int]:
    """Return the id of each token; check that all ids are in the embedding."""
    ids, size = dict[Value, int](), int(bridge.cfg.d_vocab)
    for tokens, row in zip(lists, rows, strict=True):
        for token_id in row:
            if not 0 <= token_id < size:
                raise UserError(
                    f"the encoder returned {row} for {tokens}: {token_id} is not an id of the "
                    f"model's embedding, 0 to {size - 1}"
                )
        for token, token_id in zip(tokens, row[start:], strict=True):
            if ids.setdefault(token, token_id) != token_id:
                raise UserError(
                    f"the encoder gives {token!r} the id {ids[token]}, but {token_id} in {tokens}: "
                    "a token must have the same id everywhere"
                )
    _check_apart(ids, "encoder", "tokens")
    return ids


def _check_apart(ids: dict[Value, int], what: str, things: str) -> None:
    first: dict[int, Value] = {}
    for value, number in ids.items():
        if number in first:
            raise UserError(
                f"the {what} gives {first[number]!r} and {value!r} the same id {number}: different "
                f"{things} need different ids"
            )
        first[number] = value


def _check_context(bridge: TransformerBridge, inputs: InputSet, prefix: int) -> None:
    size, longest = int(bridge.cfg.n_ctx), inputs.task.max_length
    if prefix + longest > size:
        left = size - prefix
        change = f"lower task.max_length to {left}" if left > 0 else "shorten the prefix"
        raise UserError(
            f"the model reads at most {size} tokens, but a prefix of {prefix} and "
            f"task.max_length={longest} make {prefix + longest}: {change}"
        )


def _class_ids(
    values: Sequence[Value], ids: dict[Value, int], read: Read | None, size: int
) -> list[int]:
    """Return the id of each output's logit."""
    class_ids: dict[Value, int] = {}
    for value in values:
        if read is not None:
            class_ids[value] = _called(read, "reader", value, index)
        else:
            own = [token_id for token, token_id in ids.items() if _same(token, value)]
            if not own:
                raise UserError(
                    f"the output {value!r} is not a token of the task, so no logit is known for "
                    "it: give a reader, a function that returns the id of an output's logit"
                )
            class_ids[value] = own[0]
        if not 0 <= class_ids[value] < size:
            raise UserError(
                f"the output {value!r} is read at the id {class_ids[value]}, which is not one of "
                f"the model's logits, 0 to {size - 1}"
            )
    _check_apart(class_ids, "reader" if read else "encoder", "outputs")
    return list(class_ids.values())


def _same(token: Value, value: Value) -> bool:
    """Return whether an output equals a token; True is not 1."""
    return token == value and isinstance(token, bool) == isinstance(value, bool)
