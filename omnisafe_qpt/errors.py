# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The one exception type for mistakes that a user can mend, and text that is safe to print."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake in a file, an option or a value that the user gave.

    The message is one line: it names the file or option, says what is wrong and how to mend it.
    Command lines print it without a traceback and exit with status 1. What it quotes of names and
    files has no control characters left.
    """

    def __init__(self, *arguments: object) -> None:
        """Initialize an instance of :class:`UserError`."""
        super().__init__(
            *(printable(each) if isinstance(each, str) else each for each in arguments),
        )


class WriteError(UserError, OSError):
    """A file that cannot be written, for instance because the disk is full."""


# What file systems answer where nothing can be written.
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


def disk_problem(error: Exception) -> str | None:
    """Say in one line what a file system refuses; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _REFUSED:
        return None
    where = f'{error.filename}: ' if error.filename else ''
    return printable(f'{where}{error.strerror}; make room or choose another folder')


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, its type where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextmanager
def damage_as_user_error(
    path: object,
    kind: str,
    errors: tuple[type[Exception], ...],
) -> Iterator[None]:
    """Say in one line that a file cannot be read.

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
            f'{path}: not a readable {kind} file (cut short or corrupt: {first_line(error)}); '
            'get it again',
        ) from error


def printable(text: str) -> str:
    """Replace what is not printable, such as a terminal's escape sequences, by question marks.

    Args:
        text (str): For instance the name of a file, or what a file says. A line break becomes a
            blank.
    """
    if text.isprintable():
        return text
    text = ' '.join(text.splitlines())
    return ''.join(letter if letter.isprintable() else '?' for letter in text)


def shell_command(words: Iterable[str]) -> str:
    """Join words to a command that a shell takes as these words, whatever is in them.

    Args:
        words (Iterable[str]): The program and its arguments.

    Returns:
        Printable text. Control characters become escapes in ``$'...'``, which bash and zsh know.
    """
    import shlex  # everyone who imports gymnasium imports this module

    return ' '.join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in words)


def _escaped(word: str) -> str:
    letters = (chr(byte) if byte in _PLAIN else f'\\{byte:03o}' for byte in os.fsencode(word))
    return f"$'{''.join(letters)}'"


# Printable ASCII but for the quote and the backslash.
_PLAIN = frozenset(range(0x20, 0x7F)) - {0x27, 0x5C}


def nearest(
    word: str,
    words: Iterable[str],
    count: int = 3,
    cutoff: float = 0.6,
) -> list[str]:
    """Find the words that a mistyped one may have meant, best first."""
    import difflib

    return difflib.get_close_matches(word, sorted(words), n=count, cutoff=cutoff)
