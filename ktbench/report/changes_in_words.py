"""Words for what a training does to its samples and their labels."""

from __future__ import annotations

from ktbench.records import Augmentation, TrainSpec
from ktbench.report import numbers
from ktbench.results.setting_names import settings_text


def augmentation_words(augment: Augmentation) -> list[str]:
    """Return words for each change that images are augmented with, in its order."""
    words = [f"crop with padding {augment.crop_padding}"] if augment.crop_padding else []
    words += ["flip"] if augment.flip else []
    if (part := augment.random_resized_crop) is not None:
        shares = f"{100 * part.scale[0]:g} to {100 * part.scale[1]:g} %"
        words.append(f"random part of {shares}, ratio {part.ratio[0]:.3g} to {part.ratio[1]:.3g}")
    if (random := augment.rand_augment) is not None:
        count = numbers.count(random.operations, "operation")
        words.append(f"RandAugment ({count} of magnitude {random.magnitude:g})")
    if (jitter := augment.colour_jitter) is not None:
        given = {name: value for name, value in jitter.model_dump().items() if value}
        words.append(f"colour jitter ({settings_text({n: f'{v:g}' for n, v in given.items()})})")
    if (erasing := augment.erasing) is not None:
        shares = f"{100 * erasing.scale[0]:g} to {100 * erasing.scale[1]:g} %"
        words.append(f"erasing of {shares} with probability {erasing.probability:g}")
    return words


def regularisation_words(train: TrainSpec) -> list[str]:
    """Return words for what a training does to labels, and for samples blended with others."""
    words = [f"label smoothing {train.label_smoothing:g}"] if train.label_smoothing else []
    words += [f"mixup {train.mixup:g}"] if train.mixup is not None else []
    words += [f"cutmix {train.cutmix:g}"] if train.cutmix is not None else []
    return words
