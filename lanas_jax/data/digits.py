"""The handwritten digits that scikit-learn ships: 1,797 grey images of 8 x 8 pixels, ten classes, no download.

Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository (1998), its
test part, through `sklearn.datasets.load_digits`.
"""

import numpy as np

from lanas_jax.data.splits import Dataset, SearchData, Split, check_parts, draw_stratified

CLASSES = 10


def load_digits(seed: int = 0, validation: int = 360, test: int = 360) -> Dataset:
    """The digits in three stratified parts, pixels scaled from 0..16 to [0, 1].

    Args:
      seed: of the split alone; the same seed gives the same parts on every machine.
      validation: images to compare candidates on.
      test: images kept back for the final network.

    Returns:
      Images ``float32[n, 8, 8, 1]`` and labels ``int32[n]``; what is in neither part is for training.

    Raises:
      ValueError: the two parts leave no training image of some class.
    """
    from sklearn import datasets

    raw = datasets.load_digits()
    images = (raw.images[..., None] / raw.images.max()).astype(np.float32)
    labels = raw.target.astype(np.int32)
    check_parts(len(labels), CLASSES, {"validation": validation, "test": test, "train": None})
    tested, searched = draw_stratified(labels, test, seed)
    validated, trained = (searched[rows] for rows in draw_stratified(labels[searched], validation, seed))

    def part(rows: np.ndarray) -> Split:
        return Split(images[rows], labels[rows])

    return Dataset(SearchData(part(trained), part(validated), CLASSES), part(tested))
