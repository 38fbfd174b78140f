"""The report names every change of samples and labels with its settings, and none without."""

from __future__ import annotations

from ktbench.records import (
    Augmentation,
    ColourJitter,
    Erasing,
    RandAugment,
    RandomResizedCrop,
    TrainSpec,
)
from ktbench.report.changes_in_words import augmentation_words, regularisation_words


def test_every_augmentation_is_named_with_its_settings_in_its_order() -> None:
    every = Augmentation(
        crop_padding=4,
        flip=True,
        random_resized_crop=RandomResizedCrop(scale=(0.35, 1.0)),
        rand_augment=RandAugment(operations=1, magnitude=7.5),
        colour_jitter=ColourJitter(brightness=0.4, hue=0.1),
        erasing=Erasing(probability=0.25),
    )
    assert augmentation_words(every) == [
        "crop with padding 4",
        "flip",
        "random part of 35 to 100 %, ratio 0.75 to 1.33",
        "RandAugment (1 operation of magnitude 7.5)",
        "colour jitter (brightness=0.4, hue=0.1)",
        "erasing of 2 to 33 % with probability 0.25",
    ]
    assert augmentation_words(Augmentation()) == []
    assert len(augmentation_words(every)) == len(Augmentation.model_fields)


def test_smoothed_labels_and_blends_are_named() -> None:
    train = TrainSpec(epochs=1, label_smoothing=0.1, mixup=0.2, cutmix=1.0)
    assert regularisation_words(train) == ["label smoothing 0.1", "mixup 0.2", "cutmix 1"]
    assert regularisation_words(TrainSpec(epochs=1)) == []
