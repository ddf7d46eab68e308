"""scikit-learn's digits: small, real, and part of an installed dependency."""

from __future__ import annotations

import numpy as np

from autoprune.contracts.data import DataSource, RawData
from autoprune.data._arrays import checked
from autoprune.data._strata import stratified_order

_TRAIN_SHARE = 0.6
_SPLIT_SEED = 0
_LARGEST_PIXEL = 16


class Digits(DataSource):
    """Handwritten digits, 8x8 pixels, 10 classes: 1,078 to train and 719 to test.

    scikit-learn carries them (Alpaydin and Kaynak, 1998), so no file is needed. The
    data set has no split of its own: a fixed, stratified one is drawn.
    """

    def load(self) -> RawData:
        """Return images of shape (n, 8, 8, 1), uint8, with pixels spread over 0..255."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        scaled = np.rint(bunch.images * (255 / _LARGEST_PIXEL)).astype(np.uint8)[..., None]
        order = stratified_order(bunch.target, np.random.default_rng(_SPLIT_SEED))
        train, test = np.split(order, [int(_TRAIN_SHARE * len(order))])
        # Measured on the training part.
        raw = RawData(
            scaled[train],
            bunch.target[train],
            scaled[test],
            bunch.target[test],
            mean=(0.305,),
            std=(0.376,),
        )
        return checked(raw, "scikit-learn's digits")
