"""From a folder's name to the class noun and the prompts."""

import pytest

from vectorfit import VectorFitError
from vf_dreambooth.prompts import class_noun, default_prompts


@pytest.mark.parametrize(
    ("folder", "noun"),
    [
        ("dog", "dog"),
        ("dog6", "dog"),
        ("my_teapot-2", "teapot"),
        ("backpack_dog", "backpack"),
        ("grey_sloth_plushie", "stuffed animal"),
        ("Red Car", "red car"),
        ("dog_photos", "dog"),
    ],
)
def test_the_noun_from_the_folder(folder, noun):
    assert class_noun(folder) == noun


@pytest.mark.parametrize("folder", ["images", "data", "IMG_2024", "123", "photos-2", "my_images"])
def test_uninformative_folder_names_are_refused(folder):
    with pytest.raises(VectorFitError, match="--class_noun"):
        class_noun(folder)


def test_default_prompts():
    assert default_prompts("sks", "dog") == ("a photo of sks dog", "a photo of a dog")
    assert default_prompts("zwx", "owl") == ("a photo of zwx owl", "a photo of an owl")
