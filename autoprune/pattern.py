"""Patterns in which single weights leave: alone, N of every M, or in blocks.

A kernel is seen as a matrix, a row for every output, the columns with input channels varying
fastest (so that M consecutive columns are input channels at one place of the kernel).

    Pattern.parse("2:4")     # of every four columns of a row, two weights stay
    Pattern.parse("4x1")     # blocks of 4 rows and 1 column stay or leave as a whole
    Pattern()                # every weight by itself
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log2

from autoprune.errors import PolicyError

_OF = re.compile(r"(\d+):(\d+)")
_BLOCK = re.compile(r"(\d+)x(\d+)")
_WIDEST = 64


@dataclass(frozen=True, slots=True)
class Pattern:
    """What leaves together: `rows` × `columns` weights, or of `columns` in a row all but `kept`.

    Of N:M, `kept` is N, `columns` is M and there is no `rows`; of blocks there is no `kept`; of
    single weights all three are 0.
    """

    kept: int = 0
    rows: int = 0
    columns: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Pattern:
        """Read `N:M` or `RxC`; None is every weight by itself. Raises `PolicyError`."""
        return _parsed(text)

    @property
    def is_n_of_m(self) -> bool:
        """Say whether so many of every so many stay."""
        return self.kept > 0

    @property
    def is_blocks(self) -> bool:
        """Say whether blocks stay or leave as a whole."""
        return self.rows > 0

    def stored(self, share: float, elements: int, outputs: int) -> tuple[int, int]:
        """Return the stored weights of a kernel (outputs, elements / outputs), and index bits.

        `share` of the weights or blocks stay, at least one. Single weights are marked by a bit
        each, blocks by a bit each (those at the edges are stored whole), and of N:M the place
        of every stored weight is told among M.
        """
        if not elements:
            return 0, 0
        length = elements // outputs
        if self.is_n_of_m:
            whole, rest = divmod(length, self.columns)
            stored = outputs * (whole * self.kept + min(rest, self.kept))
            return stored, stored * ceil(log2(self.columns))
        if self.is_blocks:
            blocks = ceil(outputs / self.rows) * ceil(length / self.columns)
            stored = max(1, round(share * blocks)) * self.rows * self.columns
            return min(stored, elements), blocks
        return max(1, round(share * elements)), elements


@lru_cache(maxsize=256)
def _parsed(text: str | None) -> Pattern:
    if text is None:
        return Pattern()
    if found := _OF.fullmatch(text):
        kept, columns = map(int, found.groups())
        if 1 <= kept < columns <= _WIDEST:
            return Pattern(kept=kept, columns=columns)
    if found := _BLOCK.fullmatch(text):
        rows, columns = map(int, found.groups())
        if rows * columns > 1 and 1 <= rows <= _WIDEST and 1 <= columns <= _WIDEST:
            return Pattern(rows=rows, columns=columns)
    raise PolicyError(
        f"pattern must be N:M with 1 ≤ N < M ≤ {_WIDEST}, such as 2:4, or a block RxC of at most "
        f"{_WIDEST} rows and columns, such as 4x1; given: {text!r}"
    )
