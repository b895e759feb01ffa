"""Robust output: neither an unprintable character nor a closed output ends a command."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any

_HANDLER = "algomatch.infra.terminal_output"
_LIKE = {"…": "~", "±": "~", "✗": "x", "÷": "/"}  # of what commands print
_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO)  # nobody reads it any more


class LastingStream(io.FileIO):
    """A file that takes everything; what could not be written is dropped, and why is kept."""

    failure: OSError | None = None

    def write(self, content: object, /) -> int:
        """Write all of the content, or note the error."""
        left = memoryview(content).cast("B")  # type: ignore[arg-type]
        size = len(left)
        while left:
            try:
                left = left[super().write(left) or 0 :]
            except OSError as error:
                self.failure = error
                break
        return size


def make_lasting() -> None:
    """Let standard output and error accept every text, even after the reader is gone.

    A character that the encoding lacks is printed as a similar one or as its code. A second call
    changes nothing.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        setattr(sys, name, _lasting(stream))


def fault() -> str | None:
    """Return why some output was not written, unless its reader is gone."""
    with_failure = (getattr(stream, "buffer", None) for stream in (sys.stdout, sys.stderr))
    for buffer in with_failure:
        failure = buffer.failure if isinstance(buffer, LastingStream) else None
        if failure is not None and failure.errno not in _GONE:
            return failure.strerror or str(failure)
    return None


def _lasting(stream: Any) -> Any:
    if stream is None:  # closed before the command began
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):  # in memory, without an encoding
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if type(stream) is not io.TextIOWrapper or type(raw) is not io.FileIO:  # already replaced
        stream.reconfigure(errors=_HANDLER)
        return stream
    stream.flush()
    # Without a buffer in between, since a signal handler could not print through it.
    return io.TextIOWrapper(
        LastingStream(raw.fileno(), "w", closefd=False),
        encoding=stream.encoding,
        errors=_HANDLER,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _printable(error: UnicodeError) -> tuple[str, int]:
    """Return a substitute for the characters that an encoding lacks, and where they end."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_LIKE.get(character) or _code(character) for character in lacking), error.end


def _code(character: str) -> str:
    if "\u2800" <= character <= "\u28ff":  # frames of the waiting animation
        return "*"
    return character.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(_HANDLER, _printable)
