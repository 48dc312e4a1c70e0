"""Classes of images: their order, what a training step sees of an image, scores."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vectorfit import VectorFitError
from vf_tasks.data import Data, Split
from vf_tasks.image_classification import ImageClassification, Pictures
from vf_tasks.recipe import read


def split(folder, labels, colour=(200, 100, 0)):
    path = folder / "image.png"
    pixels = np.zeros((12, 12, 3), np.uint8)
    pixels[:, :6] = colour  # only the left half, so that a mirrored one is another
    Image.fromarray(pixels).save(path)
    return Split([{"image": path, "label": label} for label in labels], "images")


def task(name="cifar10", **changes):
    own = ImageClassification(read(name).changed(labels=(), **changes))
    own.processor = SimpleNamespace(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    return own


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["dog", "cat", "dog"], ("cat", "dog")),
        (["10", "9", "2"], ("2", "9", "10")),
        (["b", "10", "9"], ("9", "10", "b")),
    ],
)
def test_classes_are_in_the_order_of_their_numbers_then_names(tmp_path, labels, order):
    own = task()
    own.prepare(Data(split(tmp_path, labels), {}))
    assert own.labels == order
    assert own.model_options()["id2label"] == dict(enumerate(order))
    assert own.model_options()["num_labels"] == len(order)


def test_a_single_class_and_a_class_that_is_only_scored_are_refused(tmp_path):
    with pytest.raises(VectorFitError, match=r"\(cat\), expected several"):
        task().prepare(Data(split(tmp_path, ["cat", "cat"]), {}))
    with pytest.raises(VectorFitError, match="the label 'cow', expected one of cat, dog"):
        task().prepare(Data(split(tmp_path, ["cat", "dog"]), {"test": split(tmp_path, ["cow"])}))


def test_a_scored_image_is_the_whole_one_resized_and_normalised(tmp_path):
    own, data = task(), split(tmp_path, ["cat", "dog"])
    own.prepare(Data(data, {}))
    images = own.examples(data, training=False)
    assert isinstance(images, Pictures)
    assert len(images) == 2
    first = images[0]["pixel_values"]
    assert torch.equal(first, images[0]["pixel_values"])
    assert first.shape == (3, 8, 8)
    torch.testing.assert_close(first[:, 4, 0], (torch.tensor([200.0, 100.0, 0.0]) / 255 - 0.5) / 0.25)
    torch.testing.assert_close(first[:, 4, -1], torch.full((3,), -2.0))
    assert [images[index]["labels"] for index in (0, 1)] == [0, 1]


@pytest.mark.parametrize(("name", "mirror", "mirrored"), [("cifar10", "random", True), ("cifar10", "none", False)])
def test_a_training_step_sees_other_crops_and_mirrors_only_where_it_may(tmp_path, name, mirror, mirrored):
    own, data = task(name, mirror=mirror), split(tmp_path, ["cat", "dog"])
    own.prepare(Data(data, {}))
    images = own.examples(data, training=True)
    seen = [images[0]["pixel_values"] for _ in range(40)]
    assert any(not torch.equal(seen[0], other) for other in seen)
    left_is_brighter = {bool(image[..., 0].mean() > image[..., -1].mean()) for image in seen}
    assert left_is_brighter == ({True, False} if mirrored else {True})


def test_a_batch_has_an_image_and_a_class_for_each(tmp_path):
    own, data = task(), split(tmp_path, ["cat", "dog", "cat"])
    own.prepare(Data(data, {}))
    images = own.examples(data, training=False)
    batch = own.collator([images[index] for index in range(3)])
    assert batch["pixel_values"].shape == (3, 3, 8, 8)
    assert batch["labels"].tolist() == [0, 1, 0]


def test_the_score_is_the_share_of_right_classes(tmp_path):
    own, data = task(), split(tmp_path, ["cat", "dog", "cat", "dog"])
    own.prepare(Data(data, {}))
    predictions = SimpleNamespace(predictions=np.eye(2)[[0, 1, 1, 1]], label_ids=np.array([0, 1, 0, 1]))
    assert own.score(SimpleNamespace(predict=lambda _: predictions), data) == {"accuracy": 75.0}
