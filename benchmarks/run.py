"""Speed, as ratios of paired measurements in one run: `make bench`.

Prints the median, lowest and highest value of each ratio, and the bar it must keep. The exit
code is 1 if a bar is missed.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from circuits import every_edge
from matching import light_match, whole_match
from results import PAIRS, Result, show, timed
from rich.console import Console
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis.ablation_names import KINDS
from algomatch.analysis.activations import Recording, record
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures.accuracy import Outcome, outcome, side_by_side
from algomatch.analysis.measures.registered_measures import default_measures
from algomatch.analysis.measures.rerun import (
    Donors,
    Means,
    Rerun,
    donors,
)
from algomatch.analysis.measures.suite import measure
from algomatch.api.preparation import prepare
from algomatch.api.train import make_trainer, quiet_lightning
from algomatch.config.composition import compose
from algomatch.config.schema import Config
from algomatch.data.datamodule import StratifiedBatches, TaskDataModule
from algomatch.data.inputs import input_set
from algomatch.data.outputs import IGNORE
from algomatch.data.tasks import make_task
from algomatch.infra.signals import Stop
from algomatch.models.bridges import make_bridge, make_native
from algomatch.models.compiling import compile_program
from algomatch.models.reference import validate
from algomatch.models.training import AlgorithmicTask, fit, learning_rate_factor
from algomatch.models.wiring import Component, component_sites
from algomatch.runs.run_folder import RunFolder
from algomatch.tracking.callbacks import GracefulStop, ProgressBar, Recorder
from algomatch.tracking.wandb_log import WandbLog

STEPS = 200


def training_step(model: str) -> Result:
    """Time a training step by Lightning with logging, over a bare loop that is otherwise equal."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(PAIRS):
            config = compose(
                [
                    f"model={model}",
                    f"trainer.max_steps={STEPS + 40}",
                    "trainer.checkpoints=1",  # step 0 and the last: outside the window
                    "analysis=accuracy_only",
                    "tracking=disabled",
                    f"run_dir={folder}/{pair}",
                ]
            )
            order = [_bare_seconds, _lightning_seconds][:: 1 if pair % 2 else -1]
            seconds = {timed: timed(config) for timed in order}
            ratios.append(seconds[_lightning_seconds] / seconds[_bare_seconds])
    return Result(
        f"training step through Lightning, logged every 10 steps, {model}",
        ratios,
        1.10,
        "x bare loop",
    )


def _bare_seconds(config: Config) -> float:
    context, settings = prepare(config), config.trainer
    model = make_native(context.shape)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, settings)
    )
    steps = range(settings.max_steps)
    batches = StratifiedBatches(context.inputs, settings.batch_size, config.seed, steps)
    started = 0.0
    for step, batch in enumerate(batches, start=1):
        logits = model(batch.tokens, attention_mask=batch.key_mask)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
        schedule.step()
        if step == 20:
            started = time.perf_counter()
        if step == 20 + STEPS:
            return time.perf_counter() - started
    raise AssertionError("the window lies within the steps")


class _Window(pl.Callback):
    """Times the steps of the window."""

    def __init__(self) -> None:
        self.started = self.seconds = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        if trainer.global_step == 20:
            self.started = time.perf_counter()
        if trainer.global_step == 20 + STEPS:
            self.seconds = time.perf_counter() - self.started


def _lightning_seconds(config: Config) -> float:
    context, settings = prepare(config), config.trainer
    folder = RunFolder.create(config, context.inputs.digest(), context.reference.exact)
    console = Console(file=io.StringIO())
    wandb_log = WandbLog(folder, print)
    recorder = Recorder(folder, context, wandb_log, lambda text: None)
    window, stop = _Window(), GracefulStop(Stop(print), recorder, wandb_log)
    callbacks = [ProgressBar(console, settings.max_steps), recorder, stop, window]
    datamodule = TaskDataModule(
        context.inputs, settings.batch_size, config.seed, settings.max_steps
    )
    module = AlgorithmicTask(make_native(context.shape), context.inputs.output, settings)
    with quiet_lightning():
        make_trainer(settings, callbacks, folder.path).fit(module, datamodule=datamodule)
    return window.seconds


def measuring() -> tuple[Result, ...]:
    """Time one checkpoint of 4L on all 1,364 inputs, over plain forward passes on these inputs.

    Matching is left out: it has its own bar. For a random init: every head, attention layer and
    MLP under four ablations, similarity, attention and sparsity. For a model that solves the task:
    also joint sets, and growing the redundant set.
    """
    measures = ",".join(name for name in default_measures() if name != "matching")
    config = compose(["model=4L", "trainer.max_steps=300", f"analysis.measures=[{measures}]"])
    context = prepare(config)
    native = make_native(context.shape).eval()
    solved, exact, _ = fit(context.inputs, context.shape, config.trainer, 0)
    assert len(context.inputs) == 1364
    assert exact == 1
    tokens, key_mask = context.inputs.tokens, context.inputs.key_mask

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(10):
            native(tokens, attention_mask=key_mask)

    results = []
    for claim, weights, bar in (
        ("measuring a checkpoint of 4L, 1,364 inputs", native.state_dict(), 60),
        ("the same, solved: with joint sets, grown", solved, 120),
    ):
        checkpoint = partial(_checkpoint, context, make_bridge(context.shape, weights))
        checkpoint()  # the controls and the reference are measured once per run
        ratios = [timed(checkpoint) / (timed(forward) / 10) for _ in range(PAIRS)]
        results.append(Result(claim, ratios, bar, "forward passes"))
    return tuple(results)


def _checkpoint(context: MeasurementContext, bridge: TransformerBridge) -> list[Measurement]:
    return list(measure(bridge, context))


def against_hooks() -> Result:
    """Time the ablations of a checkpoint, over the same ones by `run_with_hooks`, one at a time.

    Both ablate all components of 4L in all ways, on all 1,364 inputs. The benchmark fails if an
    accuracy differs, or a loss differs by more than a millionth.
    """
    context = prepare(compose(["model=4L"]))
    bridge = make_bridge(context.shape)
    recording = record(bridge, context.inputs, 2048)
    given = donors(context.inputs, context.config.seed)
    means = Means(bridge)
    means.add(recording)
    runs = [(Component.of(site), kind) for site in component_sites(bridge) for kind in KINDS]

    def ours() -> Outcome:
        return Rerun(recording, means, given).outcomes(runs)

    def by_hooks() -> Outcome:
        return side_by_side(_hooked(recording, means, given, *run) for run in runs)

    direct, other = ours(), by_hooks()
    if not (torch.equal(direct.exact, other.exact) and torch.equal(direct.correct, other.correct)):
        raise AssertionError("ablations by hooks have other accuracies")
    torch.testing.assert_close(direct.loss, other.loss, rtol=1e-6, atol=1e-6)
    ratios = [timed(ours) / timed(by_hooks) for _ in range(3)]
    claim = "its ablations, over run_with_hooks one at a time (same values)"
    return Result(claim, ratios, 0.25, "x")


@torch.inference_mode()
def _hooked(
    recording: Recording,
    means: Means,
    given: Mapping[str, Donors],
    component: Component,
    kind: str,
) -> Outcome:
    """Return the outcome of one ablation by a hook, on all inputs at once."""
    site, inputs = component.sites[0], recording.inputs
    name = f"blocks.{site.layer}.{site.hook}"

    def fill(values: Tensor) -> Tensor:
        if kind == "zero":
            return torch.zeros_like(values)
        if kind == "mean":
            return means[name].expand_as(values)
        rows, positions = given[kind].rows, given[kind].positions
        return recording[name][rows[:, None], positions]

    def hook(values: Tensor, hook: Any) -> Tensor:
        if site.head is None:
            return fill(values)
        replaced = values.clone()
        replaced[:, :, site.head] = fill(values)[:, :, site.head]
        return replaced

    logits = recording.bridge.run_with_hooks(
        inputs.tokens, attention_mask=inputs.key_mask, fwd_hooks=[(name, hook)]
    )
    return outcome(logits, inputs.targets, inputs.output)


def share_of_demo() -> Result:
    """Return the share of measuring in the demo's wall time, from the command's start to end."""
    shares = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "algomatch", "train", f"run_dir={folder}/run"]
            started = time.perf_counter()
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds = time.perf_counter() - started
        match = re.search(r"measuring took ([\d.]+) of", out)
        assert match is not None
        shares.append(float(match[1]) / seconds)
    return Result("measuring, in the demo", shares, 0.25, "of its wall time")


def streamed_memory() -> Result:
    """Return the peak memory of measuring 20,000 inputs of 20 tokens at d_model 256."""
    script = """
import re
from pathlib import Path
from algomatch.analysis.measures.suite import measure
from algomatch.config.composition import compose
from algomatch.api.preparation import prepare
from algomatch.models.bridges import make_bridge
config = compose([
    "model=1L", "model.d_model=256", "task.min_length=20", "task.max_length=20",
    "task.max_inputs=20000", "analysis.random_inits=1", "analysis.other_tasks=1",
])
context = prepare(config)
assert context.inputs.tokens.shape == (20_000, 21)
list(measure(make_bridge(context.shape), context))
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20)
"""
    command = [sys.executable, "-c", script]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    claim = "measuring 20,000 inputs of 20 tokens at d_model 256"
    return Result(claim, [float(out)], 2, "GiB, the whole process")


def help_text() -> Result:
    """Time `algomatch --help`, in seconds."""
    command = [str(Path(sys.executable).with_name("algomatch")), "--help"]
    values = [
        timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
        for _ in range(PAIRS)
    ]
    return Result("algomatch --help", values, 0.5, "s")


def first_step() -> Result:
    """Time `algomatch train` up to its first step (step 0 measured and kept), over the import."""
    ratios = [_seconds_to_first_step() / timed(_import) for _ in range(PAIRS)]
    return Result(
        "train up to its first step, reference cached", ratios, 3, "x import transformer_lens"
    )


def _import() -> None:
    command = [sys.executable, "-c", "import transformer_lens"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def _seconds_to_first_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "algomatch", "train", f"run_dir={folder}/run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step      0"):
                break
        else:
            raise RuntimeError("train ended before its first step")
        seconds = time.perf_counter() - started
        process.kill()
        process.communicate()
        return seconds


def second_start(task: str) -> Result:
    """Time the inputs and the cached reference of a known task in a fresh process."""
    script = """
import sys, time
from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import input_set
from algomatch.data.tasks import make_task
from algomatch.models.reference import build_reference
started = time.perf_counter()
config = TaskConfig(name=sys.argv[1])
reference = build_reference(input_set(make_task(config), config))
print(time.perf_counter() - started if reference.from_cache else "compiled")
"""
    command = [sys.executable, "-c", script, task]

    def printed() -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    printed()  # fills the cache
    values = [float(printed()) for _ in range(PAIRS)]
    return Result(f"second start of {task}, without imports", values, 0.3, "s")


def validation() -> tuple[Result, Result]:
    """Time the validation of reverse on all inputs: in seconds, and over haiku's apply."""
    config = compose().task
    inputs = input_set(make_task(config), config)
    compiled = compile_program(inputs.task, 100)
    assert len(inputs) == 1364
    seconds = [timed(lambda: validate(compiled, inputs)) for _ in range(PAIRS)]
    from tracr.compiler import compiling

    model = compiling.compile_rasp_to_model(
        inputs.task.program,
        vocab=set(inputs.task.vocabulary),
        max_seq_len=inputs.task.max_length,
        compiler_bos="BOS",
    )
    some = [["BOS", *inputs.listed(row)] for row in range(1000, 1010)]

    def by_haiku() -> None:
        for encoded in some:
            model.apply(encoded)

    by_haiku()
    ratios = [elapsed / (timed(by_haiku) * len(inputs) / len(some)) for elapsed in seconds]
    claim = "validating reverse on 1,364 inputs"
    return Result(claim, seconds, 1, "s"), Result(claim, ratios, 0.01, "x haiku, one by one")


def compiling() -> Result:
    """Time compiling ten programs, over Tracr's own way, which draws random weights first.

    Each runs in its own process, because jax keeps what it has compiled. Imports do not count.
    """
    script = """
import sys, time
from tracr.compiler.compiling import compile_rasp_to_model
from algomatch.config.schema import TaskConfig
from algomatch.data.registered_tasks import REGISTRY
from algomatch.data.tasks import BOS, PAD, make_task
from algomatch.models.compiling import compile_program

tasks = [make_task(TaskConfig(name=name)) for name in list(REGISTRY)[:10]]
started = time.perf_counter()
for task in tasks:
    if sys.argv[1] == "ours":
        compile_program(task, 100)
    else:
        vocabulary = set(task.vocabulary)
        compile_rasp_to_model(task.program, vocabulary, task.max_length, task.causal, BOS, PAD)
print(time.perf_counter() - started)
"""

    def seconds(whose: str) -> float:
        command = [sys.executable, "-c", script, whose]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    ratios = [seconds("ours") / seconds("Tracr's") for _ in range(3)]
    return Result("compiling ten programs, uncached", ratios, 0.25, "x Tracr's own path")


def a_hundred_programs() -> Result:
    """Return how much a process grows from its tenth to its hundredth compiled program."""
    script = """
import re, tempfile
from pathlib import Path
from tracr.rasp import rasp
from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import input_set
from algomatch.data.tasks import task_of
from algomatch.models.reference import build_reference

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

for k in range(100):
    pair = rasp.SequenceMap(lambda t, i, k=k: (t, (i + k) % (2 + k % 5)), rasp.tokens, rasp.indices)
    less = rasp.Select(pair, pair, lambda a, b: a[0] == b[0] or a[1] < b[1])
    out = rasp.SequenceMap(lambda n, b, k=k: (n, b[1] * (k + 1)), rasp.SelectorWidth(less), pair)
    task = task_of(out, "abcd"[: 2 + k % 3], 3 + k % 4)
    reference = build_reference(input_set(task, TaskConfig("many", max_inputs=300)), True)
    assert not reference.from_cache
    if k == 9:
        start = peak()
print((peak() - start) / 2**20)
"""
    with tempfile.TemporaryDirectory() as folder:
        out = subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "ALGOMATCH_CACHE": folder},
        ).stdout
    claim = "compiling and proving 100 programs: growth after the tenth"
    return Result(claim, [float(out)], 0.1, "GiB")


def a_million_inputs(task: str) -> tuple[Result, Result]:
    """Time enumerating and encoding a million lists of up to 10 tokens, with program values."""
    script = """
import re, sys, time
from pathlib import Path
from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import input_set
from algomatch.data.tasks import make_task
started = time.perf_counter()
config = TaskConfig(name=sys.argv[1], max_length=10, max_inputs=1_000_000)
assert len(input_set(make_task(config), config)) == 1_000_000
seconds = time.perf_counter() - started
# Not by getrusage, whose maximum is the parent's if that was larger.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(seconds, int(peak) / 2**20)
"""
    command = [sys.executable, "-c", script, task]
    seconds, gigabytes = [], []
    for _ in range(3):
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        seconds.append(float(out[0]))
        gigabytes.append(float(out[1]))
    claim = f"1,000,000 inputs of {task}"
    return Result(claim, seconds, 10, "s"), Result(claim, gigabytes, 2, "GiB, the whole process")


def main() -> int:
    """Run all benchmarks and print the table."""
    console = Console()
    results: list[Result] = []
    benchmarks: list[Callable[[], Result | tuple[Result, ...]]] = [
        lambda: training_step("1L"),
        lambda: training_step("4L"),
        measuring,
        whole_match,
        light_match,
        every_edge,
        against_hooks,
        share_of_demo,
        streamed_memory,
        help_text,
        first_step,
        lambda: second_start("reverse"),
        lambda: second_start("shuffle_dyck2"),  # the largest reference
        validation,
        compiling,
        a_hundred_programs,
        lambda: a_million_inputs("reverse"),
        lambda: a_million_inputs("most_freq"),
    ]
    with console.status("measuring") as status:
        for i, benchmark in enumerate(benchmarks):
            status.update(f"benchmark {i + 1} of {len(benchmarks)}")
            measured = benchmark()
            results += measured if isinstance(measured, tuple) else [measured]
    return show(results, console)


if __name__ == "__main__":
    sys.exit(main())
