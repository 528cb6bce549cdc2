# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The exception type for errors that the user can fix, and text that is safe to print."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """An error in a file, an option or a value from the user.

    The message is one line: the file or option, the fault and how to fix it. Commands print it
    without a traceback and exit with status 1. Quoted names and file contents have no control
    characters.
    """

    def __init__(self, *arguments: object) -> None:
        """Initialize an instance of :class:`UserError`."""
        super().__init__(
            *(printable(each) if isinstance(each, str) else each for each in arguments),
        )


class WriteError(UserError, OSError):
    """A file that cannot be written, for instance because the disk is full."""


# Error numbers of file systems that cannot be written.
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


def disk_problem(error: Exception) -> str | None:
    """Return a file system's error in one line; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _REFUSED:
        return None
    where = f'{error.filename}: ' if error.filename else ''
    return printable(f'{where}{error.strerror}; make room or choose another folder')


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type without one."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextmanager
def damage_as_user_error(
    path: object,
    kind: str,
    errors: tuple[type[Exception], ...],
) -> Iterator[None]:
    """Convert errors of reading a file to one line.

    Args:
        path (object): The file.
        kind (str): What it should be.
        errors (tuple[type[Exception], ...]): What reading a damaged file raises.

    Raises:
        UserError: In place of these errors.
    """
    try:
        yield
    except UserError:
        raise
    except errors as error:
        raise UserError(
            f'{path}: not a readable {kind} file (truncated or corrupt: {first_line(error)}); '
            'get it again',
        ) from error


def printable(text: str) -> str:
    """Replace unprintable characters, such as escape sequences, with question marks.

    Args:
        text (str): For instance the name or content of a file. A line break becomes a space.
    """
    if text.isprintable():
        return text
    text = ' '.join(text.splitlines())
    return ''.join(letter if letter.isprintable() else '?' for letter in text)


def shell_command(words: Iterable[str]) -> str:
    """Join words to a shell command, quoted as needed.

    Args:
        words (Iterable[str]): The program and its arguments.

    Returns:
        Printable text. Control characters become escapes in ``$'...'``, which bash and zsh know.
    """
    import shlex  # every import of gymnasium imports this module

    return ' '.join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in words)


def _escaped(word: str) -> str:
    letters = (chr(byte) if byte in _PLAIN else f'\\{byte:03o}' for byte in os.fsencode(word))
    return f"$'{''.join(letters)}'"


# Printable ASCII except the quote and the backslash.
_PLAIN = frozenset(range(0x20, 0x7F)) - {0x27, 0x5C}


def nearest(
    word: str,
    words: Iterable[str],
    count: int = 3,
    cutoff: float = 0.6,
) -> list[str]:
    """Return the known words most similar to a mistyped one, best first."""
    import difflib

    return difflib.get_close_matches(word, sorted(words), n=count, cutoff=cutoff)
