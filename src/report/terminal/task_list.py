"""The list of registered tasks in the terminal, without loading torch or Tracr's compiler."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...config.composition import compose
from ...data.registered_tasks import task_names
from ...data.tasks import make_task

NEXT = """\
algomatch tasks sort        shows one: programs, variables, reference, examples
algomatch tasks --check     compiles and validates every program
algomatch tasks FILE.py:make_it 'task.vocabulary=[0,1]'   shows one of your own
"""


def print_registry(console: Console) -> None:
    """Print a line for each registered task."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("task", no_wrap=True)
    table.add_column("inputs", justify="right", no_wrap=True)
    table.add_column("lengths", no_wrap=True)
    table.add_column("programs", justify="right", no_wrap=True)
    table.add_column("what it computes")
    for name in task_names():
        task = make_task(compose([f"task={name}"]).task)
        count = sum(map(task.count, task.lengths))
        notes = [what for what, so in (("causal", task.causal), ("unique", task.unique)) if so]
        about = task.about + (f" ({', '.join(notes)})" if notes else "")
        lengths = f"{task.min_length}..{task.max_length}"
        table.add_row(name, f"{count:,}", lengths, str(1 + len(task.alternatives)), escape(about))
    console.print(table)
    console.print(NEXT, highlight=False, markup=False)
