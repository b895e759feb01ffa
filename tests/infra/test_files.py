"""Files and folders are written completely or not at all, whatever interrupts the writing."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

from algomatch.infra.errors import FaultError
from algomatch.infra.files import (
    digest,
    faults_named,
    remove_leftovers,
    replacing,
    write_file,
    write_folder,
)

ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from algomatch.infra.errors import FaultError
from algomatch.infra.files import digest, faults_named, write_file, write_folder

path, kind = Path(sys.argv[1]), sys.argv[2]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with faults_named("keep the result"):
        if kind == "file":
            write_file(path, b"n" * 5000)
        else:
            write_folder(path, {"first": b"new", "second": b"n" * 5000})
except FaultError as error:
    print(error, error.__cause__.errno, sep="\\n")
"""

WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from algomatch.infra.files import write_file

path, letters = Path(sys.argv[1]), (b"a" * 300_000, b"b" * 300_000)
write_file(path, letters[0])
print("started", flush=True)
while True:
    for content in letters:
        write_file(path, content)
"""


class StopHalfwayError(Exception):
    pass


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files too; None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("old", [None, b"", b"old content"])
@pytest.mark.parametrize("new", [b"", b"new\x00\xff"])
def test_a_file_is_made_or_replaced(tmp_path: Path, old: bytes | None, new: bytes) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    write_file(path, new)
    assert contents(tmp_path) == {"file": new}


@pytest.mark.parametrize("old", [None, b"old"])
def test_an_exception_in_the_middle_leaves_the_old_file(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    before = contents(tmp_path)
    seen = {}

    def stop_halfway() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half of the n")
            seen.update(contents(tmp_path))
            raise StopHalfwayError

    with pytest.raises(StopHalfwayError):
        stop_halfway()
    assert {**before, **seen} == seen
    assert b"half of the n" in seen.values()
    assert contents(tmp_path) == before


def test_a_body_that_writes_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert contents(tmp_path) == {"file": b"old"}


def test_the_old_content_is_there_until_the_body_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    "write",
    [lambda path: write_file(path, b"new"), lambda path: write_folder(path, {"a": b"new"})],
    ids=["file", "folder"],
)
def test_nothing_is_written_below_a_regular_file(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        write(tmp_path / "file" / "new")
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize(
    ("target", "error"), [("folder", IsADirectoryError), ("missing/file", FileNotFoundError)]
)
def test_a_file_takes_no_folders_place_and_makes_no_folder(
    tmp_path: Path, target: str, error: type[OSError]
) -> None:
    write_folder(tmp_path / "folder", {"kept": b"old"})
    with pytest.raises(error):
        write_file(tmp_path / target, b"new")
    assert contents(tmp_path) == {"folder": None, "folder/kept": b"old"}


def test_a_path_without_a_name_is_an_os_error(tmp_path: Path) -> None:
    with (
        chdir(tmp_path),
        pytest.raises(FaultError, match="cannot write the table"),
        faults_named("write the table"),
    ):
        write_file(Path("."), b"new")
    assert contents(tmp_path) == {}


def test_a_folder_is_made_with_its_parents_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    write_folder(path, {"one": b"1", "two": b"2"})
    assert contents(path) == {"one": b"1", "two": b"2"}
    write_folder(path, {"two": b"3"})
    assert contents(tmp_path) == {"a": None, "a/b": None, "a/b/two": b"3"}


def test_a_failure_in_the_middle_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write_folder(path, {"one": b"old"})
    with pytest.raises(FileExistsError):
        write_folder(path, {"one": b"new", "one/two": b""})
    assert contents(tmp_path) == {"folder": None, "folder/one": b"old"}


def test_a_folder_takes_no_files_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(NotADirectoryError):
        write_folder(tmp_path / "file", {"one": b"new"})
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_write_that_the_system_cuts_short_is_undone(
    tmp_path: Path, kind: str, exists: bool
) -> None:
    path = tmp_path / "kept"
    if exists and kind == "file":
        write_file(path, b"old")
    elif exists:
        write_folder(path, {"first": b"old"})
    before = contents(tmp_path)
    finished = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(path), kind],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    message, number = finished.stdout.splitlines()
    assert message.startswith("cannot keep the result")
    assert message.endswith("File too large")
    assert int(number) == errno.EFBIG
    assert contents(tmp_path) == before


def test_a_reader_and_a_kill_find_a_whole_file(tmp_path: Path) -> None:
    path, whole = tmp_path / "file", {b"a" * 300_000, b"b" * 300_000}
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_UNTIL_KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "started\n"
            seen, end = set(), time.monotonic() + 0.5
            while time.monotonic() < end:
                seen.add(path.read_bytes())
        finally:
            writer.kill()
        writer.wait(timeout=30)
    assert seen <= whole
    assert path.read_bytes() in whole
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_leftovers_and_nothing_else_are_removed(tmp_path: Path) -> None:
    kept = {".lock": b"", "table.partial": b"1", ".partial.csv": b"2", "deep": None}
    for name, content in kept.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    write_folder(tmp_path / "deep", {".x.1.partial": b"another's"})
    (tmp_path / ".model.0123abcd.partial").write_bytes(b"half")
    (tmp_path / ".step-1.0123abcd.partial").mkdir()
    (tmp_path / ".step-1.0123abcd.partial" / "model").write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert contents(tmp_path) == {**kept, "deep/.x.1.partial": b"another's"}


def test_removing_leftovers_of_a_missing_folder_does_nothing(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "missing")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.csv"), r"^cannot save \(x\.csv\): No"),
        (OSError(errno.ENOSPC, "No space left on device"), "^cannot save: No space left on dev"),
        (OSError("something odd"), "^cannot save: something odd$"),
    ],
)
def test_a_fault_says_what_could_not_be_done_and_why(error: OSError, text: str) -> None:
    with pytest.raises(FaultError, match=text) as caught, faults_named("save"):
        raise error
    assert caught.value.__cause__ is error


def test_other_errors_are_not_taken_for_faults() -> None:
    with pytest.raises(StopHalfwayError), faults_named("save"):
        raise StopHalfwayError


def test_a_digest_tells_files_apart_by_name_and_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"1")
    second.write_bytes(b"1")
    before = digest([first]), digest([second]), digest([first, second])
    assert len(set(before)) == 3
    assert digest([first]) == before[0]
    first.write_bytes(b"2")
    assert digest([first]) != before[0]
