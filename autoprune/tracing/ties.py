"""Ties: which entries of which tensors stay or leave together.

Every entry along a dimension of a parameter is a variable, "this entry is kept". Running
the network ties variables to each other: a convolution ties the inputs of its kernel to
the channels it reads, an addition ties the channels of its operands. An entry may also be
a *product* of variables, kept when all of them are: a channel of an attention layer is
kept when its head and its place within the head are.

    ties = Ties()
    rows, columns = ties.fresh(4), ties.fresh(6)
    ties.tie(rows, columns[:4])           # from now on equal
    ties.freeze(columns[5:], "why")       # kept for good

Tying too much is always sound: it only leaves fewer choices. This module knows no torch.
"""

from __future__ import annotations

import numpy as np

Ids = np.ndarray
"""One variable per entry of a dimension, shape (size,), int64."""

FIXED = 0
"""The variable of an entry that is always kept."""


class Ties:
    """A union-find over variables, in which a variable may also equal a product."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, dtype=np.int64)
        self._count = 1
        self._factors: dict[int, tuple[int, ...]] = {}
        self._reasons: dict[int, str] = {FIXED: ""}
        self._products: dict[tuple[int, ...], int] = {}

    def fresh(self, count: int) -> Ids:
        """Return new variables, shape (count,)."""
        start, self._count = self._count, self._count + count
        while self._count > len(self._parent):
            self._parent = np.concatenate([self._parent, np.zeros_like(self._parent)])
        ids = np.arange(start, self._count)
        self._parent[ids] = ids
        return ids

    def roots(self, ids: Ids) -> Ids:
        """Return the representative of every variable, same shape."""
        roots: Ids = self._parent[ids]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                self._parent[ids] = roots
                return roots
            roots = above

    def factors(self, variable: int) -> tuple[int, ...]:
        """Return the free variables whose product this one is; empty when it is frozen."""
        root = self._root(variable)
        if root not in self._factors:
            return () if root in self._reasons else (root,)
        parts = [self.factors(each) for each in self._factors[root]]
        return tuple(dict.fromkeys(each for part in parts for each in part))

    def reason(self, variable: int) -> str | None:
        """Say why a variable is frozen, or None if it, or a factor of it, is free."""
        root = self._root(variable)
        if root in self._factors:
            reasons = [self.reason(each) for each in self._factors[root]]
            return None if None in reasons else next((each for each in reasons if each), "")
        return self._reasons.get(root)

    def tie(self, left: Ids, right: Ids) -> None:
        """Make the variables equal, one by one; shapes (size,) each."""
        pairs = np.stack([self.roots(left), self.roots(right)])
        different = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
        for one, other in different.T.tolist():
            self._tie(one, other)

    def freeze(self, ids: Ids, reason: str) -> None:
        """Keep these entries for good; of several reasons the first stays."""
        for root in np.unique(self.roots(ids)).tolist():
            for factor in self.factors(root):
                self._reasons.setdefault(factor, reason)

    def merge(self, ids: Ids) -> None:
        """Make all these variables one, products included."""
        products = [self.factors(root) for root in np.unique(self.roots(ids)).tolist()]
        if not all(products):
            self.freeze(ids, "its units are tied to entries that stay")
            return
        first, *others = sorted({each for product in products for each in product})
        self._parent[others] = first

    def product(self, outer: Ids, inner: Ids) -> Ids:
        """Return the product of every pair, shape (outer · inner,), outer slowest."""
        pairs = np.stack(np.meshgrid(self.roots(outer), self.roots(inner), indexing="ij"), axis=-1)
        return np.array([self._product(pair) for pair in pairs.reshape(-1, 2).tolist()])

    def split(self, ids: Ids, outer: int) -> tuple[Ids | None, Ids | None]:
        """Write shape (outer · inner,) as a product; None for a factor that stays whole.

        Where no product fits, entries are tied until one does.
        """
        grid = self.roots(ids).reshape(outer, -1)
        if outer == 1:
            return None, ids
        if (grid == grid[:, :1]).all():
            return self._unless_fixed(grid[:, 0]), None
        if (grid == grid[:1]).all():
            return None, self._unless_fixed(grid[0])
        found = self._factored(grid)
        if found is None and self._is_free(grid):
            found = self._refined(grid)
        if found is None:
            return self._collapsed(grid)
        return self._unless_fixed(found[0]), self._unless_fixed(found[1])

    def is_fixed(self, ids: Ids) -> bool:
        """Say whether every entry is frozen."""
        return all(not self.factors(root) for root in np.unique(self.roots(ids)).tolist())

    def _unless_fixed(self, ids: Ids) -> Ids | None:
        return None if self.is_fixed(ids) else ids

    def _tie(self, one: int, other: int) -> None:
        left, right = self.factors(one), self.factors(other)
        if set(left) == set(right):
            return
        if not left or not right:
            frozen, free = (one, other) if not left else (other, one)
            reason = self.reason(frozen) or "it is tied to entries that always stay"
            self.freeze(np.array([free]), reason)
        elif len(left) == len(right) > 1:
            for each, twin in zip(left, right, strict=True):
                self._tie(each, twin)
        elif len(left) == 1 and left[0] not in right:
            self._parent[left[0]] = self._root(other)
        elif len(right) == 1 and right[0] not in left:
            self._parent[right[0]] = self._root(one)
        else:
            self.merge(np.array([one, other]))

    def _root(self, variable: int) -> int:
        while (above := int(self._parent[variable])) != variable:
            variable = above
        return variable

    def _product(self, pair: list[int]) -> int:
        factors = tuple(dict.fromkeys(each for one in pair for each in self.factors(one)))
        if len(factors) < 2:
            return factors[0] if factors else FIXED
        if factors not in self._products:
            variable = int(self.fresh(1)[0])
            self._factors[variable] = factors
            self._products[factors] = variable
        return self._products[factors]

    def _is_free(self, grid: Ids) -> bool:
        flat = grid.reshape(-1)
        is_simple = all(self.factors(each) == (each,) for each in flat.tolist())
        return is_simple and len(np.unique(flat)) == len(flat)

    def _refined(self, grid: Ids) -> tuple[Ids, Ids]:
        """Turn free variables into the products of two new families."""
        outer, inner = self.fresh(grid.shape[0]), self.fresh(grid.shape[1])
        self._parent[grid.reshape(-1)] = self.product(outer, inner)
        return outer, inner

    def _factored(self, grid: Ids) -> tuple[Ids, Ids] | None:
        """Read a product off the grid, if it already is one."""
        sets = [[frozenset(self.factors(each)) for each in row] for row in grid.tolist()]
        rows = [frozenset.intersection(*row) for row in sets]
        columns = [frozenset.intersection(*column) for column in zip(*sets, strict=True)]
        for row, line in zip(rows, sets, strict=True):
            if any(row | column != cell for column, cell in zip(columns, line, strict=True)):
                return None
        return self._products_of(rows), self._products_of(columns)

    def _products_of(self, sets: list[frozenset[int]]) -> Ids:
        return np.array([self._product(sorted(each)) for each in sets])

    def _collapsed(self, grid: Ids) -> tuple[Ids | None, Ids | None]:
        """Tie along the shorter side until only the longer one is left."""
        if grid.shape[0] <= grid.shape[1]:
            for row in grid[1:]:
                self.tie(grid[0], row)
            return None, self._unless_fixed(grid[0])
        for column in grid.T[1:]:
            self.tie(grid[:, 0], column)
        return self._unless_fixed(grid[:, 0]), None
