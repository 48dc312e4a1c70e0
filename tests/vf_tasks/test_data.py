"""Rows from every form of file, and what is said about files that are no good."""

import gzip
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vectorfit import VectorFitError
from vf_tasks.data import picture, read
from vf_tasks.recipe import read as recipe

DATA = Path(os.environ.get("VECTORFIT_DATA", Path(__file__).parents[4] / "shared" / "data"))


def write(folder, **files):
    for name, text in files.items():
        stem, _, ending = name.rpartition("_")
        (folder / f"{stem}.{ending}").write_text(text, encoding="utf-8")
    return str(folder)


def test_glues_tables_know_no_quotes_and_other_tables_do(tmp_path):
    table = 'sentence\tlabel\nHe said "no\t1\n"Yes" she said\t0\n'
    data = read(recipe("sst2"), write(tmp_path, train_tsv=table, dev_tsv=table))
    assert data.train.column("sentence") == ['He said "no', '"Yes" she said']
    comma = 'sentence,label\n"One, two",1\n'
    with pytest.raises(VectorFitError, match=r"train.csv and train.tsv"):
        read(recipe("sst2"), write(tmp_path, train_csv=comma))
    (tmp_path / "train.tsv").unlink()
    (tmp_path / "dev.tsv").rename(tmp_path / "dev.csv")
    data = read(recipe("sst2"), write(tmp_path, dev_csv=comma))
    assert list(data.tests) == ["validation"]
    assert data.tests["validation"].column("sentence") == ["One, two"]


def test_colas_table_has_no_header(tmp_path):
    table = "gj04\t1\t\tThey drank.\ngj04\t0\t*\tThey drank the.\n"
    data = read(recipe("cola"), write(tmp_path, train_tsv=table, dev_tsv=table))
    assert data.train.column("sentence") == ["They drank.", "They drank the."]
    assert data.train.column("label") == ["1", "0"]
    headed = read(recipe("cola"), write(tmp_path, train_tsv="sentence\tlabel\nThey drank.\t1\n", dev_tsv=table))
    assert headed.train.column("sentence") == ["They drank."]


def test_other_names_of_columns_and_splits(tmp_path):
    table = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA cat.\tOne cat.\n"
    rows = read(recipe("mrpc"), write(tmp_path, msr_paraphrase_train_txt=table, msr_paraphrase_test_txt=table))
    assert [rows.train.column(name) for name in recipe("mrpc").input_columns] == [["A cat."], ["One cat."]]
    two = "gold_label\tsentence1\tsentence2\nneutral\tA\tB\n"
    data = read(recipe("mnli"), write(tmp_path, train_tsv=two, dev_matched_tsv=two, dev_mismatched_tsv=two))
    assert list(data.tests) == ["validation_matched", "validation_mismatched"]
    assert "dev_mismatched" in data.tests["validation_mismatched"].where


def test_an_exact_name_goes_before_one_that_is_near(tmp_path):
    table = "label\tsentence1\tsentence2\n{}\tA cat.\tOne cat.\n"
    names = {"msr_paraphrase_train_txt": 0, "train_tsv": 1, "dev_tsv": 1}
    data = read(recipe("mrpc"), write(tmp_path, **{name: table.format(label) for name, label in names.items()}))
    assert data.train.column("label") == ["1"]
    shards = {"train-0_jsonl": '{"a": 1}', "train-1_jsonl": '{"a": 1}', "dev_jsonl": '{"a": 1}'}
    (tmp_path / "two").mkdir()
    with pytest.raises(VectorFitError, match="train-0 and train-1 could all be 'train'"):
        read(recipe("sst2"), write(tmp_path / "two", **shards))


def test_lines_end_where_json_lines_end(tmp_path):
    row = json.dumps({"sentence": "one\u2028line\x85still", "label": 1}, ensure_ascii=False) + "\n"
    data = read(recipe("sst2"), write(tmp_path, train_jsonl=row * 2, dev_jsonl=row))
    assert len(data.train) == 2


def test_a_few_rows_cut_short_are_left_out(tmp_path):
    rows = "question1\tquestion2\tis_duplicate\n" + "Who?\tWhich one?\t1\n" * 2000
    data = read(recipe("qqp"), write(tmp_path, train_tsv=rows + "Who\n", dev_tsv=rows))
    assert len(data.train) == 2000


def test_squads_own_json_and_plain_rows_are_the_same(tmp_path):
    answers = [{"text": "Rome", "answer_start": 3}]
    article = {"paragraphs": [{"context": "In Rome.", "qas": [{"id": "1", "question": "Where?", "answers": answers}]}]}
    row = {"question": "Where?", "context": "In Rome.", "answers": {"text": ["Rome"], "answer_start": [3]}}
    nested, flat = json.dumps({"data": [article]}), json.dumps([row])
    (tmp_path / "train-v1.1.json").write_text(nested)
    (tmp_path / "dev-v1.1.json").write_text(flat)
    data = read(recipe("squad"), str(tmp_path))
    assert {**data.train[0], "id": None} == {**data.tests["validation"][0], "id": None}


def idx(array, compress):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    data = header + array.astype(np.uint8).tobytes()
    return gzip.compress(data) if compress else data


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files(tmp_path, compress):
    end = ".gz" if compress else ""
    images = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte{end}").write_bytes(idx(images, compress))
        (tmp_path / f"{prefix}-labels-idx1-ubyte{end}").write_bytes(idx(np.array([1, 0, 9]), compress))
    data = read(recipe("mnist"), str(tmp_path))
    assert data.train.column("label") == ["1", "0", "9"]
    assert np.array_equal(np.asarray(picture(data.tests["test"][2]["image"]))[..., 0], images[2])
    (tmp_path / f"t10k-labels-idx1-ubyte{end}").unlink()
    with pytest.raises(VectorFitError, match="without its labels"):
        read(recipe("mnist"), str(tmp_path))


def red(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), "red").save(path)


@pytest.mark.parametrize("wrapped", ["", "cifar/"])
def test_pictures_in_folders_and_zips(tmp_path, wrapped):
    for split in ("train", "test"):
        for kind in ("cat", "dog"):
            red(tmp_path / "pictures" / f"{wrapped}{split}" / kind / "0.png")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for file in (tmp_path / "pictures").rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path / "pictures"))
    for place in ("pictures", "pictures.zip"):
        data = read(recipe("cifar10"), str(tmp_path / place))
        assert data.train.column("label") == ["cat", "dog"]
        assert picture(data.tests["test"][0]["image"]).getpixel((0, 0)) == (255, 0, 0)


def test_of_a_single_split_a_tenth_is_held_out(tmp_path):
    rows = "sentence\tlabel\n" + "".join(f"Sentence {n}.\t{n % 2}\n" for n in range(40))
    data = read(recipe("sst2"), write(tmp_path, all_tsv=rows))
    train, test = (split.column("sentence") for split in (data.train, *data.tests.values()))
    assert (len(train), len(test)) == (36, 4)
    assert not set(train) & set(test)


def test_fewer_rows_and_rows_held_out_to_choose_settings_by(tmp_path):
    rows = "sentence\tlabel\n" + "".join(f"Sentence {n}.\t{n % 2}\n" for n in range(40))
    data = read(recipe("sst2"), write(tmp_path, train_tsv=rows, dev_tsv=rows))
    small, again = (data.limited(10, None).train.column("sentence") for _ in range(2))
    assert small == again
    assert small != data.train.column("sentence")[:10]  # of a shuffle
    tuning = data.limited(10, 5)
    held = tuning.tests["holdout"].column("sentence")
    assert len(held) == 5
    assert not set(held) & set(tuning.train.column("sentence"))
    assert len(data.limited(None, 5).train) == 35
    with pytest.raises(VectorFitError, match="max_train_rows: got 0, expected at least 1"):
        data.limited(0, None)
    with pytest.raises(VectorFitError, match=r"has 40 rows, expected at least 38 .* 5 to hold out"):
        data.limited(38, 5)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "holds nothing known"),
        ({"train_tsv": "sentence\tlabel\n", "dev_tsv": "sentence\tlabel\nA.\t1\n"}, "has no rows"),
        ({"train_tsv": "sentence\tlabel\nA.\t1\n", "other_tsv": "sentence\tlabel\nA.\t1\n"}, "no split 'validation'"),
        ({"train_json": '["a"]', "dev_json": '["a"]'}, "a row is 'a'"),
        ({"train_jsonl": '{"sentence": \n', "dev_jsonl": "{}"}, "cannot be read"),
    ],
)
def test_files_that_are_no_good(tmp_path, files, told):
    with pytest.raises(VectorFitError, match=told):
        read(recipe("sst2"), write(tmp_path, **files))


def test_a_row_without_a_value(tmp_path):
    table = "sentence\tlabel\nGood.\t1\nBad.\n"
    data = read(recipe("sst2"), write(tmp_path, train_tsv=table, dev_tsv=table))
    with pytest.raises(VectorFitError, match="row 2 has no label"):
        data.train.column("label")


def test_a_file_that_is_no_picture_or_no_zip(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(VectorFitError, match="cannot be read as an image"):
        picture(tmp_path / "a.png")
    (tmp_path / "a.zip").write_text("no zip")
    with pytest.raises(VectorFitError, match=r"a.zip: cannot be read"):
        read(recipe("cifar10"), str(tmp_path / "a.zip"))


@pytest.mark.skipif(not (DATA / "glue").exists(), reason="no GLUE at hand")
@pytest.mark.parametrize(
    ("name", "folder", "train", "dev"),
    [("cola", "CoLA", 8551, 1043), ("sst2", "SST-2", 67349, 872), ("stsb", "STS-B", 5749, 1500)],
)
def test_glues_own_files(name, folder, train, dev):
    own = recipe(name)
    data = read(own, str(DATA / "glue" / folder))
    assert (len(data.train), len(data.tests["validation"])) == (train, dev)
    assert own.train_rows == train
    for column in (*own.input_columns, own.target_column):
        assert all(data.train.column(column))


@pytest.mark.skipif(not (DATA / "mnist").exists(), reason="no pictures at hand")
def test_mnists_and_cifars_own_files():
    digits = read(recipe("mnist"), str(DATA / "mnist"))
    assert (len(digits.train), len(digits.tests["held_out"])) == (9000, 1000)
    assert set(digits.train.column("label")) == set("0123456789")
    photos = read(recipe("cifar10"), str(DATA / "cifar10_subset.zip"))
    assert (len(photos.train), len(photos.tests["test"])) == (10000, 2000)
    assert picture(photos.train[0]["image"]).size == (32, 32)
