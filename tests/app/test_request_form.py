"""The form of Generate as a request, and an image's settings as the form."""

import pytest

from app.cards import NO_SUBJECT
from app.generation import GenerationRequest, parameters_of
from app.request_form import fields_of, request_of, with_trigger
from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve

REQUEST = GenerationRequest((("rex", 0.5), ("tom", 1.5)), "sks dog and sks cat", "rain", 7, 1, 9, 3.5, 128, "DDIM")


def test_the_settings_of_an_image_fill_the_form_that_made_it():
    fields = fields_of(parameters_of(REQUEST, resolve("starter")))
    assert request_of(*fields[:6], 1, *fields[6:]) == REQUEST
    alone = GenerationRequest((), "a dog")
    fields = fields_of(parameters_of(alone, resolve("starter")))
    assert fields[0] == fields[2] == NO_SUBJECT
    assert request_of(*fields[:6], 1, *fields[6:]).subjects == ()


@pytest.mark.parametrize("parameters", [{}, {"columns": ["0"]}, {"subjects": 3}])
def test_the_settings_of_anything_else_are_refused(parameters):
    with pytest.raises(VectorFitError, match="holds no settings of Generate"):
        fields_of(parameters)


@pytest.mark.parametrize(
    ("prompt", "previous", "trigger", "new"),
    [
        ("", "", "sks dog", "a photo of sks dog"),
        ("sks dog in the snow", "sks dog", "sks cat", "sks cat in the snow"),
        ("sks dog in the snow", "sks dog", "", "dog in the snow"),
        ("what a person wrote", "sks dog", "sks cat", "what a person wrote"),
    ],
)
def test_another_subject_changes_the_phrase_and_nothing_else(prompt, previous, trigger, new):
    assert with_trigger(prompt, previous, trigger) == new
