"""The handwritten digits that scikit-learn ships: 1,797 grey images of 8 x 8 pixels, ten classes, no download.

Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository (1998), its
test part, through `sklearn.datasets.load_digits`.
"""

import numpy as np

from lanas_jax.data.splits import Dataset, SearchData, Split

CLASSES = 10


def load(seed: int = 0, validation: int = 360, test: int = 360) -> Dataset:
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
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    images = (raw.images[..., None] / raw.images.max()).astype(np.float32)
    labels = raw.target.astype(np.int32)
    if min(validation, test) < CLASSES or len(labels) - validation - test < CLASSES:
        raise ValueError(
            f"{len(labels)} images in parts of {validation} (validation), {test} (test) and "
            f"{len(labels) - validation - test} (train): each part needs at least {CLASSES}, one per class"
        )
    searched, tested = train_test_split(np.arange(len(labels)), test_size=test, stratify=labels, random_state=seed)
    trained, validated = train_test_split(searched, test_size=validation, stratify=labels[searched], random_state=seed)

    def part(rows: np.ndarray) -> Split:
        return Split(images[rows], labels[rows])

    return Dataset(SearchData(part(trained), part(validated), CLASSES), part(tested))
