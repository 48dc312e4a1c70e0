"""CIFAR-10, GTSRB, MNIST, RESISC45: the class of an image."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer

from vectorfit import VectorFitError

from .data import Data, Split, picture
from .metrics import METRICS, Scores
from .task import Task, class_ids

# Range of the random crops' areas and aspect ratios: wide crops, because the object must stay complete.
CROP = {"scale": (0.8, 1.0), "ratio": (0.9, 1.1)}


class ImageClassification(Task):
    """Predicts one of the recipe's labels, or of the data's classes in the order of their names."""

    auto_model = AutoModelForImageClassification
    auto_processor = AutoImageProcessor
    heads = ("classifier",)
    labels: tuple[str, ...] = ()

    def prepare(self, data: Data) -> None:
        column = self.recipe.target_column
        self.labels = self.recipe.labels or self._classes(data.train)
        if len(self.labels) < 2:
            raise VectorFitError(f"{data.train.where}: only one class ({', '.join(self.labels)}), expected several")
        for split in (data.train, *data.tests.values()):
            # Only the first image is opened: data of a wrong form are refused before the model is loaded.
            picture(split[0][split.name(self.recipe.input_columns[0])])
            class_ids(split, column, self.labels)

    def _classes(self, split: Split) -> tuple[str, ...]:
        feature = getattr(split.rows, "features", {}).get(split.name(self.recipe.target_column))
        names = getattr(feature, "names", None)  # a data set on the hub has them
        if names:
            return tuple(names)
        classes = {str(value) for value in split.column(self.recipe.target_column)}
        return tuple(sorted(classes, key=lambda name: (int(name) if name.isdecimal() else math.inf, name)))

    def model_options(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
        }

    def examples(self, split: Split, training: bool) -> "Pictures":
        return Pictures(self, split, training)

    @property
    def collator(self) -> Callable[[list[Any]], dict[str, Any]]:
        return _batch

    def score(self, trainer: Trainer, split: Split) -> Scores:
        out = trainer.predict(self.examples(split, training=False))
        return METRICS[self.recipe.metric](np.asarray(out.predictions).argmax(-1), np.asarray(out.label_ids))


class Pictures(torch.utils.data.Dataset[dict[str, Any]]):
    """A split's images, opened when they are read. In training each is cropped, and mirrored if allowed, at random."""

    def __init__(self, task: ImageClassification, split: Split, training: bool) -> None:
        recipe, processor = task.recipe, task.processor
        self.split, self.column = split, split.name(recipe.input_columns[0])
        self.targets = class_ids(split, recipe.target_column, task.labels)
        size = _size(processor.size)
        crop: Any = v2.RandomResizedCrop(size, **CROP) if training else v2.Resize(size)
        mirror = [v2.RandomHorizontalFlip()] if training and recipe.mirror == "random" else []
        scale = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        mean = getattr(processor, "image_mean", None) or [0.5] * 3
        deviation = getattr(processor, "image_std", None) or [0.5] * 3
        self.transform = v2.Compose([*scale, crop, *mirror, v2.Normalize(mean, deviation)])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "pixel_values": self.transform(picture(self.split[index][self.column])),
            "labels": self.targets[index],
        }


def _size(size: Any) -> Sequence[int]:
    if "height" in size:
        return (size["height"], size["width"])
    return (size["shortest_edge"], size["shortest_edge"])


def _batch(examples: list[Any]) -> dict[str, Any]:
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }
