"""Any model with a token embedding, matched with the programs of any task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformer_lens.model_bridge import TransformerBridge

from ..config import AnalysisConfig, TaskConfig
from ..data.inputs import input_set
from ..data.tasks import Task
from ..models.encoding import Encode, Read, encoded_subject
from .rivals import (
    Finer,
    Progress,
    Standing,
    candidates,
    compared,
    ranked,
    selectors_of,
    standing,
)


def match_bridge(
    bridge: TransformerBridge,
    task: Task,
    encode: Encode,
    read: Read | None = None,
    *,
    settings: TaskConfig | None = None,
    config: AnalysisConfig | None = None,
    programs: Sequence[str] = (),
    untrained: Iterable[TransformerBridge] = (),
    progress: Progress = lambda done, total: None,
) -> tuple[list[Standing], Finer | None]:
    """Return how a task's programs, all or those named, stand with a model, the best first.

    And what its heads decide where cuts do not, for which `untrained` models of its shape are
    needed, random inits: without them None, and the programs are compared by cuts alone.

    `task` is `make_task(TaskConfig(name="induction"))`, or `task_of` any RASP program. `encode`
    turns a list of its tokens into the ids that the model reads: a prefix that is always the same,
    BOS or a prompt, then one id for each token. `read` turns an output into the id of its logit,
    by default that of the token that it is. `settings` say how many inputs are drawn, and how;
    `config` with how many cases they are matched, and from what on a cut is realised. `progress` is
    told after each program.

    Raises:
        UserError: model, task, encoder and reader do not fit each other, a program fails on its
            inputs, or a name is none of the task's programs.
    """
    settings, config = (
        settings or TaskConfig(name=task.name, held_out=0.0),
        config or AnalysisConfig(),
    )
    inputs = input_set(task, settings)
    subject = encoded_subject(bridge, inputs, encode, read)
    known = list(candidates(task, settings, config, programs))
    random = [(init, encoded_subject(init, inputs, encode, read)) for init in untrained]
    if not random:
        return ranked(standing(subject, candidate, config) for candidate in known), None
    selectors = selectors_of(known, lambda: random, config)
    return compared(bridge, subject, known, selectors, config, progress=progress)
