"""The library of subjects: its list, its uploads, and that no path outside it can be named."""

import base64
from io import BytesIO

import pytest
from PIL import Image
from safetensors.torch import save_file

from app.subjects import EXAMPLES, UPLOADS, Library, slug
from tests.app.stand_ins import write_subject
from vectorfit import VectorFitError
from vectorfit.vectors_file import read_vectors
from vf_dreambooth.base_models import BaseModel, resolve

STARTER = (resolve("starter"),)


def test_runs_uploads_and_examples_are_listed(root, subject_file, tmp_path):
    library = Library(root, subject_file.parent, STARTER)
    library.add(subject_file)
    subjects = {subject.name: subject for subject in library.all()}
    assert set(subjects) == {"rex", f"{UPLOADS}/dog", f"{EXAMPLES}/dog"}
    for subject in subjects.values():
        assert (subject.trigger, subject.base, subject.method) == ("sks dog", "starter", "vectorfit")
        assert library.base_of(subject).name == "starter"
        assert subject.settings()["class_noun"] == "dog"
        assert subject.thumbnail() is None
    assert library.add(subject_file).name == f"{UPLOADS}/dog"  # the same file is kept once
    other = write_subject(tmp_path / "dog.safetensors", scale=0.25)
    assert library.add(other).name == f"{UPLOADS}/dog-2"


@pytest.mark.parametrize(
    "name", ["../rex", "/etc/passwd", "rex/../rex", "rex/vectors.safetensors", "", "..", "photos", "uploads/../rex"]
)
def test_what_is_not_in_the_list_cannot_be_asked_for(root, name):
    (root.parent / "rex").symlink_to(root / "rex")
    with pytest.raises(VectorFitError, match="no subject is called"):
        Library(root).find(name)


def test_links_out_of_the_root_are_not_followed(root, tmp_path, subject_file):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "vectors.safetensors").write_bytes(subject_file.read_bytes())
    (root / "linked").symlink_to(outside)
    (root / UPLOADS).mkdir()
    (root / UPLOADS / "linked.safetensors").symlink_to(subject_file)
    assert [subject.name for subject in Library(root).all()] == ["rex"]


def test_uploads_are_checked_whole(root, subject_file, tmp_path):
    library = Library(root, bases=STARTER)
    whole = subject_file.read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(whole[:1000])
    other = tmp_path / "dog.ckpt"
    other.write_bytes(whole)
    for file in (damaged, truncated, other):
        with pytest.raises(VectorFitError) as error:
            library.add(file)
        assert str(tmp_path) not in str(error.value)  # the server's path stays hidden
    assert not (root / UPLOADS).exists()


@pytest.mark.parametrize("base", ["/etc", "../elsewhere", "someone/else", "~"])
def test_a_file_cannot_make_the_app_load_a_base_of_its_choice(root, tmp_path, base):
    file = write_subject(tmp_path / "evil.safetensors", base=base)
    with pytest.raises(VectorFitError, match="start it with --base_model"):
        Library(root, bases=STARTER).add(file)


@pytest.mark.parametrize("part", ["base_revision", "base_variant"])
def test_a_file_cannot_choose_another_revision_of_its_base(root, subject_file, tmp_path, part):
    tensors, metadata = read_vectors(subject_file)
    save_file(tensors, tmp_path / "evil.safetensors", {**metadata, f"vectorfit.{part}": "refs/pr/7"})
    with pytest.raises(VectorFitError, match="refs/pr/7"):
        Library(root, bases=STARTER).add(tmp_path / "evil.safetensors")


def test_a_file_on_a_local_base_finds_the_one_the_app_was_started_with(root, tmp_path):
    file = write_subject(tmp_path / "mine.safetensors", base="my-sd")
    local = BaseModel("my-sd", "/somewhere/my-sd", None, STARTER[0].preset)
    library = Library(root, bases=(local,))
    assert library.base_of(library.add(file)) is local


def test_a_file_named_as_in_a_run_folder_makes_no_run(root, subject_file, tmp_path):
    file = tmp_path / "vectors.safetensors"
    file.write_bytes(subject_file.read_bytes())
    library = Library(root, bases=STARTER)
    assert library.add(file).name == f"{UPLOADS}/sks-dog"
    (root / UPLOADS / "vectors.safetensors").write_bytes(file.read_bytes())
    assert UPLOADS not in library.names()


@pytest.mark.parametrize(
    "training", ["{", "[]", '{"class_noun": {"a": 1}}', '{"method": ["x"]}', '{"class_noun": "a\\nb"}']
)
def test_odd_metadata_takes_nobody_else_down(root, subject_file, tmp_path, training):
    tensors, metadata = read_vectors(subject_file)
    odd = {**metadata, "vectorfit.training": training}
    del odd["modelspec.trigger_phrase"]
    (root / "odd").mkdir()
    save_file(tensors, root / "odd" / "vectors.safetensors", odd)
    library = Library(root, bases=STARTER)
    assert [subject.name for subject in library.all()] == ["rex"]
    with pytest.raises(VectorFitError, match=r"damaged|not a JSON object|not a line of text|method: got"):
        library.add(root / "odd" / "vectors.safetensors")


def test_a_thumbnail_is_shown_and_anything_else_in_its_place_is_not(root, subject_file, tmp_path):
    data = BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "JPEG")
    good = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    for number, (url, shown) in enumerate(
        ((good, True), ("data:image/jpeg;base64,AAAA", False), ("javascript:alert(1)", False), ("base64,%%%", False))
    ):
        path = root / f"run{number}" / "vectors.safetensors"
        path.parent.mkdir()
        tensors, metadata = read_vectors(subject_file)
        save_file(tensors, path, {**metadata, "modelspec.thumbnail": url})
        assert (Library(root).find(f"run{number}").thumbnail() is not None) == shown


def test_a_damaged_run_is_left_out_of_the_list(root):
    (root / "broken").mkdir()
    (root / "broken" / "vectors.safetensors").write_bytes(b"nothing")
    assert [subject.name for subject in Library(root).all()] == ["rex"]


@pytest.mark.parametrize(
    ("text", "name"), [("My Dog!", "my-dog"), ("../../etc/passwd", "etc-passwd"), ("", "subject"), ("日本", "subject")]
)
def test_names_of_files_are_harmless(text, name):
    assert slug(text) == name
    assert len(slug(text * 100)) <= 40
