"""Renaming, deleting and noting: own subjects only, and nothing is overwritten."""

import pytest

from app.jobs import Job, Jobs
from app.subject_care import delete, note_of, rename, write_note
from app.subjects import Library
from tests.app.stand_ins import write_subject
from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve


@pytest.fixture
def library(root, subject_file):
    library = Library(root, subject_file.parent, (resolve("starter"),))
    library.add(subject_file)
    return library


@pytest.fixture
def jobs(root):
    jobs = Jobs(root)
    jobs.folder.mkdir()
    jobs._write(Job("rex", [], 0.0, waiting=False))
    (root / "photos" / "rex").mkdir(parents=True)
    return jobs


def test_a_run_is_renamed_with_its_photos_its_record_and_its_notes(library, jobs, root):
    write_note(library, "rex", "best at 0.8")
    assert rename(library, jobs, "rex", "Old Rex!") == "old-rex"
    assert "rex" not in library.names()
    assert [job.name for job in jobs.all()] == ["old-rex"]
    assert (root / "photos" / "old-rex").is_dir()
    assert note_of(library, "old-rex") == "best at 0.8"
    assert rename(library, jobs, "uploads/dog", "terrier") == "uploads/terrier"


@pytest.mark.parametrize("taken", ["photos", "uploads", "rex", ""])
def test_a_name_that_is_taken_or_empty_is_refused(library, jobs, root, taken):
    write_subject(root / "other" / "vectors.safetensors")
    with pytest.raises(VectorFitError, match=r"exists already|empty"):
        rename(library, jobs, "other", taken)
    assert {"rex", "other"} <= set(library.names())


def test_what_came_with_vectorfit_stays(library, jobs):
    for change in (
        lambda: rename(library, jobs, "examples/dog", "mine"),
        lambda: delete(library, jobs, "examples/dog"),
    ):
        with pytest.raises(VectorFitError, match="came with VectorFit"):
            change()
    assert "examples/dog" in library.names()


def test_deleting_removes_run_photos_record_and_notes(library, jobs, root):
    write_note(library, "rex", "gone soon")
    delete(library, jobs, "rex")
    delete(library, jobs, "uploads/dog")
    assert library.names() == ["examples/dog"]
    assert jobs.all() == []
    assert not (root / "photos" / "rex").exists()
    assert list((root / ".notes").glob("*")) == []
    with pytest.raises(VectorFitError, match="no subject is called"):
        delete(library, jobs, "../rex")


def test_notes_have_a_limit(library):
    with pytest.raises(VectorFitError, match="notes: 4001 characters"):
        write_note(library, "rex", "a" * 4001)
