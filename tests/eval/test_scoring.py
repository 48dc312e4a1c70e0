"""Scores in closed form, against brute force, and whatever must not change them."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from eval import comparison, manifest, report, scoring
from eval.collection import gather
from eval.manifest import Entry
from eval.protocols import PROTOCOLS
from eval.scoring import ceiling, diversity, pairwise
from tests.eval.pictures import flat, noise, toys
from vectorfit import VectorFitError

RED, GREEN, YELLOW = (255, 0, 0), (0, 255, 0), (255, 255, 0)
PROTOCOL = PROTOCOLS["starter"]


def scored(subjects, **changes):
    options = {"method": "toy", "facts": {}, "allow_missing": False, **changes}
    encoders = toys()
    scores = {subject.name: scoring.score_subject(subject, encoders, PROTOCOL) for subject in subjects}
    return scoring.result_of(scores, PROTOCOL, encoders, **options)


def folders(tmp_path, generated, references, prompts=None):
    for name, pictures in (("generated", generated), ("real", references)):
        (tmp_path / name).mkdir(parents=True)
        for file, image in pictures.items():
            image.save(tmp_path / name / file)
    if prompts:
        (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    return [tmp_path / "generated"], tmp_path / "real", tmp_path / "prompts.json" if prompts else None


def test_scores_in_closed_form(tmp_path):
    """Red and yellow against red and green photos: cosines 1, 0 and 1/sqrt 2."""
    paths = folders(
        tmp_path,
        {"a.png": flat(RED), "b.png": flat(YELLOW)},
        {"x.png": flat(RED), "y.png": flat(GREEN)},
        {"a.png": "a red thing", "b.png": "a green thing"},
    )
    result = scored(gather(*paths))
    subject, half = result["subjects"]["generated"], 1 / 2**0.5
    by_file = {image["file"]: image for image in subject["images"]}
    assert by_file["a.png"]["dino"] == pytest.approx(0.5, abs=1e-6)
    assert by_file["b.png"]["dino"] == pytest.approx(half, abs=1e-6)
    assert by_file["a.png"]["clip_t"] == pytest.approx(1, abs=1e-6)
    assert by_file["b.png"]["clip_t"] == pytest.approx(half, abs=1e-6)
    assert subject["dino"] == pytest.approx((0.5 + half) / 2, abs=1e-6)
    assert subject["real"]["dino"] == {"with_self": 0.5, "without_self": 0.0}
    assert subject["frame"] == {"photos": {"dino": 0.0, "clip_i": 0.0, "clip_t": None}}  # no class, no base's images
    assert subject["overfitting"]["nearest_reference"] == pytest.approx((1 + half) / 2, abs=1e-6)
    assert subject["overfitting"]["diversity"] is None  # one picture a prompt


def test_identical_pictures_score_one(tmp_path):
    same = {f"{index}.png": noise(5) for index in range(3)}
    result = scored(gather(*folders(tmp_path, same, same)))
    assert result["overall"]["dino"]["mean"] == 1
    assert result["overall"]["clip_i"]["mean"] == 1
    assert result["overall"]["dino"]["percent_of_real"] == 100
    assert "clip_t" not in result["overall"]  # no prompts, no score of them


def test_the_matrix_is_the_double_loop():
    generator = torch.Generator().manual_seed(0)
    mine, real = (torch.nn.functional.normalize(torch.randn(n, 7, generator=generator), dim=1) for n in (9, 4))
    loop = [sum(float(g.double() @ r.double()) for r in real) / len(real) for g in mine]
    assert pairwise(mine, real).tolist() == pytest.approx(loop, abs=1e-12)
    pairs = [float(a.double() @ b.double()) for a, b in itertools.permutations(real, 2)]
    assert ceiling(real)[1] == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    ids = [1, 1, 2, 2, 2, 3, 3, 3, 4]
    spread = []
    for number in (1, 2, 3):
        group = [mine[i].double() for i, other in enumerate(ids) if other == number]
        cosines = [float(a @ b) for a, b in itertools.permutations(group, 2)]
        spread.append(1 - sum(cosines) / len(cosines))
    assert diversity(mine, ids) == pytest.approx(sum(spread) / 3, abs=1e-12)


def test_order_and_copies_of_files_change_nothing(tmp_path):
    generated = {f"{index}.png": noise(index) for index in range(7)}
    real = {f"{index}.png": noise(50 + index) for index in range(3)}
    first = scored(gather(*folders(tmp_path / "a", generated, real)))
    renamed = {f"{9 - index}.png": noise(index) for index in range(7)}
    second = scored(gather(*folders(tmp_path / "b", renamed, dict(reversed(real.items())))))
    assert first["overall"] == second["overall"]
    twice = {**real, **{f"copy-{name}": image for name, image in real.items()}}
    third = scored(gather(*folders(tmp_path / "c", generated, twice)))
    assert third["overall"]["dino"]["mean"] == pytest.approx(first["overall"]["dino"]["mean"], abs=1e-6)


def test_embeddings_are_kept_by_content_and_damaged_ones_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("VECTORFIT_CACHE", str(tmp_path / "cache"))
    subjects = gather(*folders(tmp_path, {"a.png": noise(1), "b.png": noise(2)}, {"x.png": noise(3)}))
    first = scored(subjects)
    kept = sorted((tmp_path / "cache").rglob("*.npy"))
    assert len(kept) == 6  # three pictures, two encoders
    kept[0].write_bytes(b"damaged")
    np.save(kept[1], np.zeros(3, np.float32))
    assert scored(subjects) == first
    for path in kept:
        np.save(path, np.array([1.0, 0, 0], np.float32))
    assert scored(subjects)["overall"]["dino"]["mean"] == 1  # they are truly read


def write_manifest(folder, images):
    (folder / "images").mkdir(parents=True)
    entries = []
    for number, (role, prompt_id, seed, image) in enumerate(images):
        image.save(folder / "images" / f"{number}.png")
        words = f"a red sks {prompt_id}" if role == "subject" else f"a red {prompt_id}"
        known = (
            f"images/{number}.png",
            "toy",
            "thing",
            role,
            prompt_id,
            "property",
            words,
            f"a red {prompt_id}",
            seed,
            "s",
        )
        entries.append(Entry(*known))
    manifest.append(folder, entries)


def test_the_overfitting_panel_in_closed_form(tmp_path):
    images = [("subject", 1, 0, flat(RED)), ("subject", 1, 1, flat(GREEN)), ("subject", 2, 0, flat(RED))]
    images += [("class", 1, 0, flat(YELLOW)), ("base_class", 1, 0, flat(GREEN)), ("class", 2, 0, flat(GREEN))]
    write_manifest(tmp_path / "out", images)
    (tmp_path / "real").mkdir()
    flat(RED).save(tmp_path / "real" / "0.png")
    subject = scored(gather([tmp_path / "out"], tmp_path / "real"))["subjects"]["toy"]
    half, panel = 1 / 2**0.5, subject["overfitting"]
    assert subject["n"] == 3  # class pictures are no pictures of the subject
    assert panel["pres"] == pytest.approx((half + 0) / 2, abs=1e-6)
    assert panel["drift"] == pytest.approx((1 - half) / 2, abs=1e-6)  # the one pair of equal prompt and seed
    assert panel["diversity"] == pytest.approx(1, abs=1e-6)
    assert panel["nearest_reference"] == pytest.approx(2 / 3, abs=1e-6)


def test_scores_are_read_between_the_base_and_the_photos(tmp_path):
    images = [("subject", 1, 0, flat(RED)), ("base_class", 1, 0, flat(GREEN)), ("base_class", 2, 0, flat(YELLOW))]
    write_manifest(tmp_path / "out", images)
    (tmp_path / "real").mkdir()
    for name, color in (("0.png", RED), ("1.png", YELLOW)):
        flat(color).save(tmp_path / "real" / name)
    (subject,) = gather([tmp_path / "out"], tmp_path / "real")
    result, half, white = scored([subject]), 1 / 2**0.5, 1 / 3**0.5
    photos, base = result["overall"]["photos"], result["overall"]["base"]
    assert photos["dino"] == photos["clip_i"] == pytest.approx(half, abs=1e-6)
    assert photos["clip_t"] == pytest.approx((white + 2**0.5 * white) / 2, abs=1e-6)  # "a photo of a thing" is white
    assert base["dino"] == pytest.approx((0 + half + half + 1) / 4, abs=1e-6)  # each with both photos
    assert base["clip_t"] == pytest.approx((0 + half) / 2, abs=1e-6)  # the texts say red
    told = scored([replace(subject, captions=["a red thing", "a green thing"])])
    assert told["overall"]["photos"]["clip_t"] == pytest.approx((1 + half) / 2, abs=1e-6)
    result["subjects"]["toy"] |= {"folder": "out", "reference_files": ["real/0.png"]}
    page = report.page([result], [tmp_path], "toy")
    places = [page.index(words) for words in ("the photos themselves", "the base, asked for the class", "<td>toy</td>")]
    assert places == sorted(places)


def test_a_manifest_keeps_the_last_of_equal_entries_and_forgives_a_line_cut_short(tmp_path):
    write_manifest(tmp_path, [("subject", 1, 0, flat(RED)), ("subject", 2, 0, flat(GREEN))])
    first = manifest.read(tmp_path)
    manifest.append(tmp_path, [first[0]])
    with (tmp_path / manifest.NAME).open("a") as file:
        file.write('{"file": "im')
    assert manifest.read(tmp_path) == first
    manifest.append(tmp_path, first)  # after a kill the list goes on
    assert manifest.read(tmp_path) == first
    manifest.keep_only(tmp_path, first[:1])
    assert manifest.read(tmp_path) == first[:1]
    text = (tmp_path / manifest.NAME).read_text()
    (tmp_path / manifest.NAME).write_text("{}\n" + text)
    with pytest.raises(VectorFitError, match="line 1: not an entry"):
        manifest.read(tmp_path)


def test_what_cannot_be_scored_is_counted_and_named(tmp_path):
    real = {"x.png": noise(9)}
    with pytest.raises(VectorFitError, match="no such folder"):
        gather([tmp_path / "none"], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(VectorFitError, match="0 images there"):
        gather([tmp_path / "empty"], tmp_path)
    images = {"good.png": noise(1), "black.png": flat((0, 0, 0)), "broken.png": noise(2)}
    generated, reference, _ = folders(tmp_path / "a", images, real)
    (generated[0] / "broken.png").write_bytes(b"no picture")
    with pytest.raises(VectorFitError, match=r"2 of 3 generated images(.|\n)*black\.png: black(.|\n)*broken\.png"):
        gather(generated, reference)
    subjects = gather(generated, reference, allow_missing=True)
    result = scored(subjects, allow_missing=True)
    assert result["subjects"]["generated"]["n"] == 1
    assert result["deviations"] == ["2 images are missing"]
    generated, reference, prompts = folders(
        tmp_path / "b", {"a.png": noise(1), "b.png": noise(2)}, real, {"a.png": "a red x"}
    )
    with pytest.raises(VectorFitError, match=r"1 of 2 images have no prompt.*b\.png"):
        gather(generated, reference, prompts)
    prompts.with_suffix(".txt").write_text("a.png\ta red x\nb.png no tab\n")
    with pytest.raises(VectorFitError, match="1 of 2 lines have no tab, the first is line 2"):
        gather(generated, reference, prompts.with_suffix(".txt"))
    shutil.rmtree(reference)
    reference.mkdir()
    with pytest.raises(VectorFitError, match="0 real images of generated"):
        gather(generated, reference)
    write_manifest(tmp_path / "m", [("subject", 1, 0, flat(RED))])
    (tmp_path / "m" / "images" / "0.png").unlink()
    with pytest.raises(VectorFitError, match=r"1 of 1 generated images(.|\n)*missing"):
        gather([tmp_path / "m"], tmp_path / "a" / "real")


def two_results(tmp_path, shift=3):
    real = {f"{i}.png": noise(90 + i) for i in range(3)}
    results = []
    for number in range(2):
        images = {f"{i}.png": noise(i + shift * number) for i in range(6)}
        prompts = {name: f"a {('red', 'green')[i % 2]} thing" for i, name in enumerate(images)}
        results.append(
            scored(gather(*folders(tmp_path / str(number), images, real, prompts)), method=f"method {number}")
        )
    return results


def test_a_comparison_is_paired_and_the_other_way_round_the_reverse(tmp_path):
    first, second = two_results(tmp_path)
    forward, backward = comparison.compare(first, second), comparison.compare(second, first)
    mine = first["subjects"]["generated"]["images"]
    theirs = second["subjects"]["generated"]["images"]
    for kind in ("dino", "clip_i", "clip_t"):
        differences = [a[kind] - b[kind] for a, b in zip(mine, theirs, strict=True)]
        assert forward[kind]["difference"] == pytest.approx(sum(differences) / 6, abs=1e-6)
        assert forward[kind]["low"] <= forward[kind]["difference"] <= forward[kind]["high"]
        assert forward[kind]["win_rate"] == pytest.approx(sum(d > 0 for d in differences) / 6, abs=1e-4)
        assert backward[kind]["difference"] == -forward[kind]["difference"]
        assert backward[kind]["win_rate"] == pytest.approx(1 - forward[kind]["win_rate"])
    same = comparison.compare(first, first)
    assert same["dino"] == {"difference": 0, "low": 0, "high": 0, "win_rate": 0.5, "subjects": 1}
    assert "method 0 minus method 1" in comparison.table(forward)


def test_unlike_protocols_and_strangers_are_not_compared(tmp_path):
    first, second = two_results(tmp_path)
    other = json.loads(json.dumps(second))
    other["protocol"].update(name="clip-l14", hash="x")
    other["encoders"]["clip"]["weights_sha256"] = "f" * 64
    with pytest.raises(VectorFitError, match=r"differ in protocol name 'starter' and 'clip-l14'.*weights of clip"):
        comparison.compare(first, other)
    stranger = json.loads(json.dumps(second))
    stranger["subjects"] = {"another": stranger["subjects"]["generated"]}
    with pytest.raises(VectorFitError, match="no image in common: 6 and 6"):
        comparison.compare(first, stranger)


def test_results_are_written_and_read_and_others_refused(tmp_path):
    first, _ = two_results(tmp_path)
    scoring.write(first, tmp_path / "r.json")
    assert scoring.read(tmp_path / "r.json") == first
    for content, words in (
        ("[]", "not a result"),
        ('{"schema": "other/9"}', "expected 'vectorfit-eval/1'"),
        ("{", "not a"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(VectorFitError, match=words):
            scoring.read(tmp_path / "bad.json")


def test_the_csv_has_a_line_per_picture(tmp_path):
    results = two_results(tmp_path)
    lines = report.csv_of(results).splitlines()
    assert len(lines) == 1 + 12
    assert lines[0].startswith("schema,method,subject,group,prompt_id,prompt,seed,file,dino")


def test_only_what_is_meant_is_taken(tmp_path):
    write_manifest(tmp_path / "run" / "evaluation", [("subject", 1, 0, flat(RED))])
    for name in ("config.json", "vectors.safetensors"):
        (tmp_path / "run" / name).write_text("{}")
    for name in ("samples", "analysis", "real"):
        (tmp_path / "run" / name).mkdir()
        noise(1).save(tmp_path / "run" / name / "x.png")
    (subject,) = gather([tmp_path / "run"], tmp_path / "run" / "real")
    assert [path.name for path, _ in subject.pictures] == ["0.png"]
    several = tmp_path / "several"
    for name in ("cat", "dog"):
        (several / name).mkdir(parents=True)
        noise(2).save(several / name / "0.png")
    with pytest.raises(VectorFitError, match="0 real images of cat in cat/"):
        gather([several], tmp_path / "run" / "real")  # one folder of photos cannot be of both
    noise(3).save(several / "grid.png")
    with pytest.raises(VectorFitError, match=r"1 images beside 2 folders.*grid\.png"):
        gather([several], several)
    (several / "grid.png").unlink()
    (several / "bird").mkdir()
    with pytest.raises(VectorFitError, match=r"1 of 3 folders have 0 images \(bird\)"):
        gather([several], several)
    (several / "bird").rmdir()
    (tmp_path / "p.txt").write_text("0.png\ta red dog\n")
    with pytest.raises(VectorFitError, match=r"image of several subjects; write 'SUBJECT/0\.png'"):
        gather([several], several, tmp_path / "p.txt")
    (tmp_path / "p.txt").write_text("cat/0.png\ta red cat\ndog/0.png\ta green dog\n")
    subjects = gather([several], several, tmp_path / "p.txt")
    assert [subject.pictures[0][1].text for subject in subjects] == ["a red cat", "a green dog"]
    (tmp_path / "p.txt").write_text("cat/0.png\ta red cat\ndog/0.png\ta green dog\ndog/1.png\tx\n")
    with pytest.raises(VectorFitError, match=r"1 of 3 images are missing, such as dog/1\.png"):
        gather([several], several, tmp_path / "p.txt")


def test_one_subject_in_two_folders_is_refused(tmp_path):
    for name in ("a", "b"):
        write_manifest(tmp_path / name, [("subject", 1, 0, flat(RED))])
    with pytest.raises(VectorFitError, match=r"toy: images in .* and in"):
        gather([tmp_path / "a", tmp_path / "b"], tmp_path)


def test_plain_folders_are_paired_by_file_name(tmp_path):
    real = {"x.png": noise(50)}
    first = {name: noise(seed) for seed, name in enumerate(("a.png", "b.png", "c.png"))}
    second = {"b.png": first["b.png"], "c.png": first["c.png"], "d.png": noise(9)}
    results = [scored(gather(*folders(tmp_path / n, images, real))) for n, images in (("1", first), ("2", second))]
    forward = comparison.compare(*results)
    assert forward["pairs"] == 2
    assert forward["unpaired"] == [1, 1]
    assert forward["dino"]["difference"] == 0
    other = scored(gather(*folders(tmp_path / "3", first, {"x.png": noise(51)})))
    with pytest.raises(VectorFitError, match="the real images of generated"):
        comparison.compare(results[0], other)
    assert "diversity" not in results[0]["overall"]  # without prompts nobody knows which belong together


def test_a_report_escapes_what_others_wrote_and_leaves_out_empty_tables(tmp_path):
    results = two_results(tmp_path)
    results[0]["method"] = "<script>alert(1)</script>"
    results[0]["deviations"] = ["less & more"]
    folders_of_results = [tmp_path] * 2
    for result in results:
        for subject in result["subjects"].values():
            subject["folder"] = next(str(p.parent) for p in tmp_path.rglob(subject["images"][0]["file"]))
            subject["reference_files"] = []
    page = report.page(results, folders_of_results, "A <title>")
    assert "<script>" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5
    assert "A &lt;title&gt;" in page
    assert "less &amp; more" in page
    assert "data:image/jpeg;base64," in page
    assert "By image" in page
    assert "Differences on equal prompts and seeds" in page
    alone = report.page(results[:1], folders_of_results[:1], "alone")
    assert "Differences on equal prompts and seeds" not in alone
