"""Writes the reference of the Python API as Markdown, from signatures and docstrings.

`make api` writes it into build/api: README.md lists the modules, and each has a page.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"
MODULES = (  # first those of the names that `import algomatch` offers, in the order of use
    "config.composition", "config.schema", "infra.errors",
    "data.programs", "data.tasks", "data.inputs", "data.outputs", "data.rasp.cuts",
    "data.program_selectors", "models.reference",
    "api.train", "api.load", "runs.loaded_run", "runs.run_folder", "runs.checkpoints",
    "api.analyze", "api.match", "api.circuit",
    "api.states", "api.explain", "api.subspaces", "api.controls", "api.compare", "api.report",
    "models.shapes", "models.training", "models.task_model", "models.foreign_encoding",
    "models.bridges", "models.foreign",
    "analysis.measurements", "analysis.base", "analysis.activations", "analysis.statistics",
    "analysis.measures.suite", "analysis.measures.accuracy", "analysis.measures.similarity",
    "analysis.measures.representations", "analysis.measures.attention",
    "analysis.measures.ablation", "analysis.measures.rerun", "analysis.measures.redundancy",
    "analysis.measures.sparsity", "analysis.measures.light_matching",
    "analysis.measures.separation", "analysis.measures.emergence",
    "analysis.controls.known_models", "analysis.controls.variants",
    "analysis.matching.program_ranking", "analysis.matching.cut_tests",
    "analysis.matching.cut_verdicts", "analysis.matching.any_bridge",
    "analysis.matching.head_selectors", "analysis.matching.subspace_search",
    "analysis.circuits.edge_scores", "analysis.circuits.edge_variables",
    "analysis.circuits.faithfulness", "analysis.circuits.true_circuit",
    "analysis.explain.heads", "analysis.explain.neurons", "analysis.explain.substitution",
    "hypotheses.seed_groups",
)  # fmt: skip
WIDTH = 100  # characters of a signature on one line


def main(folder: Path) -> None:
    """Write a page for each module, and the list of modules, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    index = ["# The Python API", "", "Start with [the walkthrough](../../docs/walkthrough.md).", ""]
    index += ["| module | |", "|---|---|"]
    for name in MODULES:
        tree = ast.parse((SRC / f"{name.replace('.', '/')}.py").read_text())
        (folder / f"{name}.md").write_text("\n".join(page(name, tree)) + "\n")
        index.append(f"| [`algomatch.{name}`]({name}.md) | {first_line(tree)} |")
    (folder / "README.md").write_text("\n".join(index) + "\n")


def first_line(tree: ast.Module) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def page(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield the lines of a module's page: its public functions and classes, as in the file."""
    yield f"# algomatch.{name}"
    yield from ("", *prose(tree))
    for node in public(tree):
        yield from ("", f"## {node.name}", "")
        yield from fenced(fields(node) if isinstance(node, ast.ClassDef) else signature(node))
        yield from ("", *prose(node))
        for method in public(node) if isinstance(node, ast.ClassDef) else ():
            assert not isinstance(method, ast.ClassDef), f"{node.name}.{method.name} is a class"
            yield from ("", f"### {node.name}.{method.name}", "")
            yield from (*fenced(signature(method)), "", *prose(method))


def public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Yield the functions and classes whose names do not begin with an underscore."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def signature(node: ast.FunctionDef) -> str:
    """Return a function's signature; a long one has one argument per line."""
    above = "".join(f"@{ast.unparse(decorator)}\n" for decorator in node.decorator_list)
    arrow = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"def {node.name}({ast.unparse(node.args)}){arrow}"
    if len(line) > WIDTH:
        line = f"def {node.name}({''.join(each(node.args))}\n){arrow}"
    return above + line


def each(arguments: ast.arguments) -> Iterator[str]:
    """Yield one line for each argument, with its default."""
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + [*arguments.defaults]
    yield from (argument(*pair) for pair in zip(plain, defaults, strict=True))
    if arguments.vararg or arguments.kwonlyargs:
        yield argument(arguments.vararg, None, "*")
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    yield from (argument(*pair) for pair in named)
    if arguments.kwarg:
        yield argument(arguments.kwarg, None, "**")


def argument(given: ast.arg | None, default: ast.expr | None, stars: str = "") -> str:
    """Return the line of one argument."""
    value = f" = {ast.unparse(default)}" if default else ""
    return f"\n    {stars}{ast.unparse(given) if given else ''}{value},"


def fields(node: ast.ClassDef) -> str:
    """Return a class with its bases and annotated fields, or with its constructor's arguments."""
    bases = ", ".join(map(ast.unparse, node.bases))
    lines = [*(f"@{ast.unparse(decorator)}" for decorator in node.decorator_list)]
    lines.append(f"class {node.name}{f'({bases})' if bases else ''}:")
    for member in node.body:
        if isinstance(member, ast.AnnAssign) and not ast.unparse(member.target).startswith("_"):
            lines.append(f"    {ast.unparse(member)}")
        elif isinstance(member, ast.FunctionDef) and member.name == "__init__":
            lines += [f"    {line}" for line in signature(member).splitlines()]
    return "\n".join(lines)


def fenced(code: str) -> Iterator[str]:
    """Yield the lines of a block of Python."""
    yield from ("```python", *code.splitlines(), "```")


def prose(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    """Yield a docstring as Markdown: errors as a list, examples and tables as code.

    A missing docstring is an error, so that the reference is complete.
    """
    text = ast.get_docstring(node)
    if text is None:
        raise SystemExit(f"{getattr(node, 'name', 'a module')} has no docstring")
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
        yield from [""] if number else []
        head, _, rest = paragraph.partition("\n")
        if paragraph.startswith(">>>"):
            yield from ("```pycon", *paragraph.splitlines(), "```")
        elif re.fullmatch(r"\w+:", head) and rest:
            entries = re.split(r"\n    (?=\S)", f"\n{rest}")[1:]
            yield from (head, "")
            yield from (f"- {' '.join(entry.split())}" for entry in entries)
        elif re.search(r"\S {3,}\S", paragraph):  # columns
            yield from ("```", *paragraph.splitlines(), "```")
        else:
            yield from paragraph.splitlines()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/api"))
