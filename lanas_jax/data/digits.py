"""The handwritten digits of scikit-learn: 1,797 grey images of 8 x 8 pixels, ten classes, no download.

Source: the test part of E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning
Repository (1998), loaded by `sklearn.datasets.load_digits`.
"""

import numpy as np

from lanas_jax.data.splits import Dataset, SearchData, Split, check_parts, draw_stratified

CLASSES = 10


def load_digits(seed: int = 0, validation: int = 360, test: int = 360) -> Dataset:
    """Loads the digits in three stratified parts, with pixels scaled from 0..16 to [0, 1].

    Args:
      seed: random seed of the split; a seed gives the same parts on every machine.
      validation: number of search-validation images.
      test: number of test images, held out for the winner.

    Returns:
      Images ``float32[n, 8, 8, 1]`` and labels ``int32[n]``; the remaining images are for training.

    Raises:
      ValueError: if a part has fewer images than there are classes.
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
