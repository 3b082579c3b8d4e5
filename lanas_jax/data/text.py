"""Text as symbols of a small alphabet, for language models of characters.

The default text is CPython's own documentation of its language, ``pydoc_data.topics``, which every Python has (about
430,000 symbols). It differs between Python versions, so results name its digest. Letters become lower case, each run of
white space becomes one space, and characters outside the alphabet become one symbol.
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Int

ALPHABET = " abcdefghijklmnopqrstuvwxyz.,_'"
UNKNOWN = len(ALPHABET)  # the symbol of all other characters
SYMBOLS = len(ALPHABET) + 1
MARK = "#"  # how `text_of` shows `UNKNOWN`


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A text in three consecutive parts.

    Attributes:
      train: symbols for training, the first 80 %.
      validation: symbols from which a search computes its values, the next 10 %.
      test: symbols that no search sees, the last 10 %.
      digest: SHA-256 of all symbols.
    """

    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]
    digest: str


def load_text(file: Path | None = None) -> Text:
    """Returns a text as symbols.

    Args:
      file: text file in UTF-8; None for the documentation of this Python.

    Raises:
      ValueError: the text has fewer than 10,000 symbols.
      OSError: the file cannot be read.
    """
    if file is None:
        from pydoc_data.topics import topics

        text = "\n".join(topics[name] for name in sorted(topics))
    else:
        text = file.read_text(encoding="utf-8", errors="replace")
    symbols = symbols_of(text)
    if len(symbols) < 10_000:
        raise ValueError(f"a text must have at least 10,000 symbols; {file or 'pydoc_data.topics'} has {len(symbols)}")
    first, second = len(symbols) * 8 // 10, len(symbols) * 9 // 10
    digest = hashlib.sha256(symbols.astype(np.uint8).tobytes()).hexdigest()
    return Text(symbols[:first], symbols[first:second], symbols[second:], digest)


def symbols_of(text: str) -> Int[np.ndarray, " n"]:
    """Returns the symbols of a text."""
    place = {character: i for i, character in enumerate(ALPHABET)}
    return np.array([place.get(character, UNKNOWN) for character in " ".join(text.lower().split())], np.int32)


def text_of(symbols: Int[np.ndarray, " n"]) -> str:
    """Returns the characters of symbols; ``#`` for characters outside the alphabet."""
    return "".join((ALPHABET + MARK)[i] for i in symbols)


def side_by_side(symbols: Int[np.ndarray, " n"], columns: int) -> Int[np.ndarray, "rows columns"]:
    """Returns a text cut into columns of consecutive symbols; up to ``columns - 1`` symbols at its end are left out.

    Raises:
      ValueError: there are fewer symbols than columns.
    """
    if len(symbols) < columns:
        raise ValueError(f"{len(symbols)} symbols do not fill {columns} columns")
    return np.ascontiguousarray(symbols[: len(symbols) // columns * columns].reshape(columns, -1).T)
