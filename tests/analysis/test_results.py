"""Results of every kind read back as they were written, typed; earlier versions' are read too."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algomatch.analysis.circuits.circuit_result import CircuitResult
from algomatch.analysis.explain.explanation_result import ExplanationResult
from algomatch.analysis.matching.match_result import MatchResult
from algomatch.analysis.matching.subspace_result import SubspaceResult
from algomatch.analysis.results import SETTINGS, About, Key, Result
from algomatch.infra.errors import FaultError, UserError
from algomatch.infra.typed_tables import TypedTable
from algomatch.runs.result_store import RESULTS

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
words = st.text("abc_=-1é", min_size=1, max_size=4)
PLAIN: Mapping[object, st.SearchStrategy[Any]] = {
    str: texts,
    int: st.integers(-(10**12), 10**12),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    type(None): st.none(),
}
SCORES = st.sampled_from(["exact/zero", "acdc/resample_across", "eap/mean"])
KEYS = {"scores": SCORES, "visible": words, "adds_to": texts}


def values_of(hint: Any, name: str) -> st.SearchStrategy[Any]:
    """Return values of a field."""
    if isinstance(hint, types.UnionType):
        return st.one_of(*(PLAIN[part] for part in typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        part = typing.get_args(hint)[0]
        return st.lists(words if part is str else PLAIN[part], max_size=3).map(tuple)
    if typing.get_origin(hint) is dict:
        return st.dictionaries(KEYS[name], PLAIN[typing.get_args(hint)[1]], max_size=3)
    return PLAIN[hint]


def rows_of(table: TypedTable[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    hints = typing.get_type_hints(table.row)
    fields = [field.name for field in dataclasses.fields(table.row)]
    made = st.builds(table.row, **{name: values_of(hints[name], name) for name in fields})
    return st.lists(made, max_size=3).map(tuple)


def results_of(kind: type[Result]) -> st.SearchStrategy[Result]:
    steps = st.none() | st.integers(0, 10**9)
    some = st.lists(words, max_size=3).map(tuple)
    keys = st.builds(Key, st.just(kind.KIND), texts, steps, some, some)
    counts = st.lists(st.integers(0, 99), max_size=2).map(tuple)
    about = st.builds(About, keys, texts, st.booleans(), counts)
    parts: dict[str, Any] = {name: rows_of(table) for name, table in kind.TABLES.items()}
    if kind.PICTURES:
        parts["pictures"] = st.dictionaries(st.sampled_from(kind.PICTURES), st.binary())
    return st.builds(kind, about=about, **parts)


def typed(value: object) -> object:
    """Return a value with its type, and a float by its bits."""
    if isinstance(value, dict | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return type(value), sorted((key, typed(part)) for key, part in items)
    return type(value).__name__, value.hex() if isinstance(value, float) else repr(value)


def exactly(result: Result) -> object:
    return {
        name: [
            {field.name: typed(getattr(row, field.name)) for field in dataclasses.fields(row)}
            for row in getattr(result, name)
        ]
        for name in result.TABLES
    }


@pytest.mark.parametrize("kind", RESULTS.values(), ids=RESULTS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_result_reads_back_as_it_was(kind: type[Result], data: st.DataObject) -> None:
    result = data.draw(results_of(kind))
    with TemporaryDirectory() as place:
        folder = Path(place) / "result"
        result.write(folder)
        again = kind.read(folder)
    assert again == result
    assert exactly(again) == exactly(result)
    assert again.about.versions == result.about.versions
    assert again.about.written == result.about.written


MATCHED = MatchResult(about=About(Key("match", "one", 1)), pictures={"match.png": b"drawn"})
CIRCUITS = CircuitResult(about=About(Key("circuit", "one", 1)))


def test_a_result_of_the_same_kind_and_an_empty_folder_are_replaced(tmp_path: Path) -> None:
    place = tmp_path / "result"
    place.mkdir()
    MATCHED.write(str(place))
    (place / "emergence.png").write_bytes(b"drawn")
    MatchResult(about=About(Key("match", "two", 2))).write(place)
    assert [path.name for path in place.iterdir()] == [SETTINGS]
    assert MatchResult.read(str(place)).about.model == "two"


def matched_beside_notes(place: Path) -> None:
    MATCHED.write(place)
    (place / "notes.txt").touch()


def matched_beside_a_folder(place: Path) -> None:
    MATCHED.write(place)
    (place / "match.csv").mkdir()


@pytest.mark.parametrize(
    ("make", "holds"),
    [
        (lambda place: (place / "notes.txt").write_text("mine"), "notes.txt"),
        (lambda place: (place / "checkpoints" / "step").mkdir(parents=True), "checkpoints"),
        (CIRCUITS.write, "settings.json"),
        (lambda place: (place / SETTINGS).write_text("{}"), "settings.json"),
        (matched_beside_notes, "notes.txt"),
        (matched_beside_a_folder, "match.csv"),
        (lambda place: [(place / f"{n}.txt").touch() for n in range(7)],
         "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more"),
    ],
)  # fmt: skip
def test_a_folder_that_holds_something_else_stays(make: Any, holds: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    make(place)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as refused:
        MATCHED.write(place)
    assert str(refused.value) == (
        f"'{place}' holds {holds}, and would be replaced: give a folder that is new, empty or of "
        "a result of kind 'match'"
    )
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_result_of_another_kind_is_not_read_as_an_empty_one(tmp_path: Path) -> None:
    CIRCUITS.write(tmp_path / "result")
    with pytest.raises(UserError, match=r"result' holds a result of kind 'circuit', not 'match'$"):
        MatchResult.read(tmp_path / "result")


def test_directions_read_back(tmp_path: Path) -> None:
    directions = {"length@blocks.0.hook_resid_mid/2": torch.randn(6, 2)}
    about = About(Key("subspaces", "run", 3))
    SubspaceResult(about=about, directions=directions).write(tmp_path / "result")
    again = SubspaceResult.read(tmp_path / "result")
    assert again.directions.keys() == directions.keys()
    for name, wanted in directions.items():
        assert torch.equal(again.directions[name], wanted)


EARLIER: Mapping[type[Result], tuple[str, str, str, Mapping[str, object]]] = {
    CircuitResult: (
        "edges", "edges.csv",
        'model,edge,exact/zero,real,visible/zero,in_circuit,needed,carries,share,chance\n'
        '"reverse, of two, step 300",tokens -> output,0.1,True,False,True,nan,"a = b",0.3000000004,'
        "\n",
        {
            "model": "reverse, of two", "step": 300, "scores": {"exact/zero": 0.1}, "real": True,
            "visible": {"zero": False}, "in_circuit": True, "needed": None, "carries": "a = b",
            "share": 0.3000000004, "chance": None,
        },
    ),
    ExplanationResult: (
        "neurons", "neurons.csv",
        "model,layer,neuron,state,predicate,accuracy,shuffled,explained,adds_to_a,adds_to_\n"
        "the compiled reference of sort,0,7,varies,index <= 1,0.5,,False,-0.25,\n",
        {
            "model": "the compiled reference of sort", "step": None, "neuron": 7, "shuffled": None,
            "explained": False, "adds_to": {"a": -0.25},
        },
    ),
    MatchResult: (
        "programs", "programs.csv",
        "run,step,exact,program,verdict,score,testable,shared_with,decided,why\n"
        "one,52,1.0,reverse,undecided,,2,sort hist,,no cut\n",
        {
            "run": "one", "step": 52, "score": None, "testable": 2,
            "shared_with": ("sort", "hist"), "decided": (), "fused": (),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", EARLIER)
def test_tables_of_an_earlier_version_are_read(kind: type[Result], tmp_path: Path) -> None:
    attribute, name, content, wanted = EARLIER[kind]
    (tmp_path / name).write_text(content)
    about = '{"what": "KIND", "model": "one", "step": 52, "settings": ["no-sides"], '
    about += '"finished": true, "fullness": [2, 1], "written": 1.5, "version": "0.1"}'
    (tmp_path / SETTINGS).write_text(about.replace("KIND", kind.KIND))
    result = kind.read(tmp_path)
    (row,) = getattr(result, attribute)
    assert {field: getattr(row, field) for field in wanted} == wanted
    assert result.about.key == Key(kind.KIND, "one", 52, ("no-sides",))
    assert (result.about.versions, result.about.fullness) == ({"algomatch": "0.1"}, (2, 1))


def test_names_with_blanks_are_told_apart_and_earlier_ones_are_read() -> None:
    table = MatchResult.PROGRAMS
    row = table.row(
        step=1, exact=1.0, program="p", verdict="fuses steps", score=None, shared_with=(),
        decided=("by count", "other"), fused=("length - index", "opp index"), why="",
    )  # fmt: skip
    content = table.to_csv([row])
    assert b",length - index; opp index," in content
    assert table.from_csv(content, "programs.csv") == [row]
    earlier = content.replace(b"; ", b" ").replace(b",2\n", b",1\n")
    (read,) = table.from_csv(earlier, "programs.csv")
    assert read.decided == ("by", "count", "other")


DAMAGED = {
    "a line is cut off": (b"run,step\none,1\ntwo\n", "row 2 has 1 columns, not 2"),
    "it is no text": (b"run,step\n\xff,1\n", "codec"),
    "a column is gone": (b"run,step\none,1\n", "it has no column program, kind, name, match"),
    "a step is no number": (
        b"run,step,program,kind,name,match\none,x,p,cut,c,0.5\n", "$[0].step",
    ),
    "it is of a later version": (
        b"run,step,program,kind,name,match,format\none,1,p,cut,c,0.5,2\n", "format '2'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "why"), DAMAGED.values(), ids=DAMAGED)
def test_a_table_that_cannot_be_read_is_one_line(content: bytes, why: str, tmp_path: Path) -> None:
    MatchResult(about=About(Key("match", "one", 1))).write(tmp_path / "result")
    path = tmp_path / "result" / "emergence.csv"
    path.write_bytes(content)
    with pytest.raises(FaultError) as refused:
        MatchResult.read(tmp_path / "result")
    told = str(refused.value)
    assert told.startswith(f"the table '{path}'")
    assert why in told
    assert "\n" not in told
    result = MatchResult.read(tmp_path / "result", tolerant=True)
    assert result.problems == {"emergence.csv": told}
    assert result.emergence == ()
