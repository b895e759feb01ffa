"""Any model with a token embedding, matched with the programs of any task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformer_lens.model_bridge import TransformerBridge

from ...config.schema import AnalysisConfig, TaskConfig
from ...data.inputs import input_set
from ...data.tasks import Task
from ...models.foreign_encoding import Encode, Read, encoded_task_model
from .program_ranking import (
    Progress,
    SelectorEvidence,
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
) -> tuple[list[Standing], SelectorEvidence | None]:
    """Return the standing of each of a task's programs with a model, the best first.

    Also return what the model's heads decide between programs that cuts do not tell apart. This
    needs `untrained` models (random inits) of the same shape; without them it is None, and the
    programs are compared by cuts alone. `programs` names those to compare, by default all.

    `task` is `make_task(TaskConfig(name="induction"))`, or `task_of` any RASP program. `encode`
    turns a list of its tokens into the ids that the model reads: a constant prefix (BOS or a
    prompt), then one id for each token. `read` turns an output into the id of its logit, by default
    the id of the same token. `settings` say how many inputs are drawn, and how. `config` gives the
    number of cases for matching and the threshold from which a cut is realised. `progress` is
    called after each program.

    Raises:
        UserError: model, task, encoder and reader do not fit each other, a program fails on its
            inputs, or a name is none of the task's programs.
    """
    settings, config = (
        settings or TaskConfig(name=task.name, held_out=0.0),
        config or AnalysisConfig(),
    )
    inputs = input_set(task, settings)
    task_model = encoded_task_model(bridge, inputs, encode, read)
    known = list(candidates(task, settings, config, programs))
    random = [(init, encoded_task_model(init, inputs, encode, read)) for init in untrained]
    if not random:
        return ranked(standing(task_model, candidate, config) for candidate in known), None
    selectors = selectors_of(known, lambda: random, config)
    return compared(bridge, task_model, known, selectors, config, progress=progress)
