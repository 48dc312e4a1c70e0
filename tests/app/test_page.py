"""The real page on the starter, over its API and over plain HTTP."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from app import access, command, server
from app.gallery import Gallery
from app.generation import Generator
from app.jobs import FINISHED, Job, Jobs
from app.page import build
from app.subjects import Library
from app.train_tab import TrainTab
from tests.app.stand_ins import FakeEngine, write_subject
from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve
from vf_dreambooth.images import read_parameters

ROOT = Path(__file__).parents[2]
QUICK = {"count": 2, "steps": 2, "random_seed": False, "seed": 5}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page as `vf-app` serves it, on a root with two subjects."""
    folder = tmp_path_factory.mktemp("app")
    write_subject(folder / "runs" / "uploads" / "dog.safetensors")
    write_subject(folder / "runs" / "uploads" / "cat.safetensors", "cat", scale=-0.5)
    (folder / "secret.txt").write_text("kept to itself")
    (folder / "runs" / "secret.png").write_bytes(b"kept to itself")
    blocks, _, jobs = server.build_app(folder / "runs", "starter", folder / "scratch")
    address = server.launch(blocks, Gallery(folder / "runs"), prevent_thread_lock=True, quiet=True)
    yield address, folder, jobs
    blocks.close()


@pytest.fixture
def client(served):
    return Client(served[0], verbose=False, download_files=True)


def files(gallery) -> list[Path]:
    return [Path(item["image"]) for item in gallery]


def test_the_named_endpoints_are_the_documented_ones(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {
        *("/generate", "/list_subjects", "/train", "/stop", "/resume", "/remove"),
        *("/export", "/rename", "/keep_notes", "/delete", "/sweep", "/table"),
        *("/list_trainings", "/samples", "/subject", "/add_subject", "/check_photos", "/count_tokens", "/settings_of"),
    }


def test_no_tab_imports_another():
    tabs = sorted((ROOT / "app").glob("*_tab.py"))
    assert len(tabs) == 5
    for tab in tabs:
        imported = re.findall(r"^from \.(\w*_tab)\b", tab.read_text(encoding="utf-8"), re.MULTILINE)
        assert imported == [], tab.name


def test_every_endpoint_is_described(client):
    text = (ROOT / "docs" / "app.md").read_text(encoding="utf-8")
    for name in client.view_api(return_format="dict")["named_endpoints"]:
        assert f"`{name}`" in text, name


def test_subjects_are_listed(client):
    subjects = client.predict(api_name="/list_subjects")
    triggers = {subject["name"]: subject["trigger"] for subject in subjects}
    assert triggers["uploads/dog"] == "sks dog"
    assert triggers["uploads/cat"] == "sks cat"
    assert set(subjects[0]) == {"name", "trigger", "base", "method"}


def test_what_the_page_shows_of_a_subject_a_program_can_ask_for(client):
    client.predict("uploads/dog", "best at 0.8", api_name="/keep_notes")
    told = client.predict("uploads/dog", api_name="/subject")
    assert told["facts"]["trigger phrase"] == "sks dog"
    assert told["settings"]["class_noun"] == "dog"
    assert told["notes"] == "best at 0.8"
    counted = client.predict("a dog", "uploads/dog", api_name="/count_tokens")
    assert (counted["tokens"], counted["cut"]) == (2, "")
    cut = client.predict("dog " * 500 + "snow", api_name="/count_tokens")
    assert cut["cut"].endswith("snow")
    with pytest.raises(Exception, match="no subject is called"):
        client.predict("nobody", api_name="/subject")


def test_a_program_adds_and_deletes_a_subject(client, tmp_path):
    file = write_subject(tmp_path / "third.safetensors", "cat", scale=0.25)
    added = client.predict(handle_file(str(file)), api_name="/add_subject")
    assert added == {"name": "uploads/third", "trigger": "sks cat"}
    assert added["name"] in {subject["name"] for subject in client.predict(api_name="/list_subjects")}
    client.predict("uploads/third", "fourth", api_name="/rename")
    client.predict("uploads/fourth", api_name="/delete")
    names = {subject["name"] for subject in client.predict(api_name="/list_subjects")}
    assert not {"uploads/third", "uploads/fourth"} & names
    with pytest.raises(Exception, match="came with VectorFit"):
        client.predict(min(names), api_name="/delete")


def test_a_program_reads_the_settings_of_a_picture_and_the_check_of_photos(client, tmp_path):
    asked = {"subject": "uploads/dog", "prompt": "a photo of sks dog", "compare": False, **QUICK}
    own, *_ = client.predict(**asked, api_name="/generate")
    settings = client.predict(handle_file(str(files(own)[0])), api_name="/settings_of")
    assert (settings["prompt"], settings["seed"]) == ("a photo of sks dog", 5)
    Image.new("RGB", (4, 4)).save(tmp_path / "foreign.png")
    with pytest.raises(Exception, match="holds no settings"):
        client.predict(handle_file(str(tmp_path / "foreign.png")), api_name="/settings_of")
    told = client.predict([handle_file(str(tmp_path / "foreign.png"))], api_name="/check_photos")
    assert told["photos"][0]["note"].startswith("smaller than the")


def test_images_carry_their_settings_and_strength_zero_is_the_base(client):
    asked = {"subject": "uploads/dog", "prompt": "a photo of sks dog", **QUICK}
    own, base, seeds, *_ = client.predict(**asked, api_name="/generate")
    assert seeds == "5, 6"
    assert len(files(own)) == len(files(base)) == 2
    assert read_parameters(files(own)[1])["seed"] == 6
    assert read_parameters(files(own)[0])["subjects"] == [{"name": "uploads/dog", "strength": 1.0}]
    nothing, base_again, *_ = client.predict(**asked, strength=0, api_name="/generate")
    pixels = [[Image.open(file).tobytes() for file in files(gallery)] for gallery in (own, base, nothing, base_again)]
    assert pixels[1] == pixels[2] == pixels[3]
    assert pixels[0] != pixels[1]


def test_two_subjects_mix(client):
    asked = {"subject": "uploads/dog", "prompt": "sks dog", "compare": False, **QUICK}
    alone, *_ = client.predict(**asked, api_name="/generate")
    mixed, *_ = client.predict(**asked, second="uploads/cat", second_strength=0.5, api_name="/generate")
    assert Image.open(files(alone)[0]).tobytes() != Image.open(files(mixed)[0]).tobytes()
    assert len(read_parameters(files(mixed)[0])["subjects"]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "../../secret"}, "no subject is called"),
        ({"subject": "<img src=x onerror=alert(1)>"}, "&lt;img src=x"),
        ({"prompt": ""}, "prompt: empty"),
        ({"steps": 10**6}, "1000000"),
        ({"seed": None}, "seed: got None"),
        ({"second": "uploads/dog"}, "choose another"),
    ],
)
def test_a_failure_shows_its_message_and_the_app_lives_on(client, changes, message):
    asked = {"subject": "uploads/dog", "prompt": "sks dog", **QUICK}
    with pytest.raises(Exception, match=message.replace("(", r"\(")) as error:
        client.predict(**{**asked, **changes}, api_name="/generate")
    assert "Traceback" not in str(error.value)
    assert len(files(client.predict(**asked, api_name="/generate")[0])) == 2


def test_two_clients_at_once_do_not_mix(served):
    def ask(name):
        mine = Client(served[0], verbose=False)
        parameters = []
        for seed in (1, 2, 3):
            asked = {"subject": f"uploads/{name}", "prompt": f"sks {name}", "compare": False, **QUICK, "seed": seed}
            own, *_ = mine.predict(**asked, api_name="/generate")
            parameters += [read_parameters(file) for file in files(own)]
        return parameters

    with ThreadPoolExecutor(2) as pool:
        dogs, cats = pool.map(ask, ("dog", "cat"))
    for name, parameters in (("dog", dogs), ("cat", cats)):
        assert {each["prompt"] for each in parameters} == {f"sks {name}"}
        assert {each["subjects"][0]["name"] for each in parameters} == {f"uploads/{name}"}
        assert [each["seed"] for each in parameters] == [1, 2, 2, 3, 3, 4]


def test_fifty_requests_of_five_clients_all_answer_and_each_is_told_its_place(served):
    clients = [Client(served[0], verbose=False) for _ in range(5)]
    asked = {"subject": "uploads/dog", "prompt": "sks dog", **QUICK, "count": 1, "steps": 1, "compare": False}
    waiting = [
        (seed, client.submit(**{**asked, "seed": seed}, api_name="/generate"))
        for seed, client in enumerate(clients * 10)
    ]
    ranks = set()
    while not all(job.done() for _, job in waiting):
        ranks |= {job.status().rank for _, job in waiting}
        time.sleep(0.05)
    assert len(ranks - {None, 0}) > 5
    for seed, job in waiting:
        (image,) = files(job.result()[0])
        assert read_parameters(image)["seed"] == seed


def outside(served, path: str) -> list[str]:
    address, folder, _ = served
    return [
        f"{address}gradio_api/file={path}",
        f"{address}file={path}",
        f"{address}gradio_api/file={folder}/runs/../{path}",
    ]


@pytest.mark.parametrize("name", ["secret.txt", "runs/secret.png", "runs/uploads/dog.safetensors", "scratch"])
def test_no_file_is_served_by_its_path(served, name):
    for url in outside(served, str(served[1] / name)) + outside(served, "/etc/passwd"):
        answer = httpx.get(url)
        assert answer.status_code in (403, 404), url
        assert b"kept to itself" not in answer.content
        assert b"root:" not in answer.content


def test_no_input_reads_a_file_of_the_server(served, client):
    """Only uploaded files are read, whatever path a request names."""
    secret = {"path": str(served[1] / "runs" / "secret.png"), "meta": {"_type": "gradio.FileData"}}
    for photos in ([secret], *([{**secret, "path": path}] for path in ("/etc/passwd", "file:///etc/passwd"))):
        body = {"data": [photos, "dog", "", 2, 0.01, "none", True, "sks", 0]}
        refusal = httpx.post(f"{served[0]}gradio_api/call/train", json=body)
        assert refusal.status_code == 400
        assert "upload the file itself" in refusal.text
        assert str(ROOT) not in refusal.text
        assert served[2].all() == []


def test_the_queue_cannot_be_bypassed(served):
    asked = {"data": ["uploads/dog", 1, "(none)", 1, "sks dog", "", 1, 0, False, 1, 4, 64, "DDIM", False]}
    for path in ("gradio_api/run/generate", "gradio_api/api/generate", "api/generate", "run/generate"):
        assert httpx.post(f"{served[0]}{path}", json=asked).status_code == 404


def test_a_url_is_not_taken_as_a_file(served, client):
    link = {"path": "https://127.0.0.1/a.png", "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}
    body = {"data": [[link] * 3, "dog", "", 2, 0.01, "none", True, "sks", 0, None]}
    event = httpx.post(f"{served[0]}gradio_api/call/train", json=body).json()
    answer = httpx.get(f"{served[0]}gradio_api/call/train/{event['event_id']}").text
    assert "event: complete" not in answer
    assert "send the file itself" in answer


def test_the_samples_of_a_root_anywhere_are_shown(root, tmp_path):
    """gradio serves no file outside the working and temporary directories, so the page holds them itself."""
    samples = root / "rex" / "samples" / "step_000001.png"
    samples.parent.mkdir()
    Image.new("RGB", (4, 4)).save(samples)
    jobs = Jobs(root)
    jobs._write(Job("rex", [], 0.0, waiting=False))
    with gr.Blocks():
        tab = TrainTab(Generator(Library(root), FakeEngine(), resolve("starter"), tmp_path / "scratch"), jobs)
    job, state, shown, sent, *buttons = tab.refreshed(None, {"menu": [], "samples": ""})
    assert job["value"] == "rex"
    assert "data:image/jpeg;base64," in shown
    assert str(root) not in shown
    assert '<span role="status">rex is finished</span>' in state
    assert [button["visible"] for button in buttons] == [True, False, False, True]
    again = tab.refreshed("rex", sent)
    assert [gr.skip() == part for part in again[:3]] == [True, False, True]


@pytest.mark.slow
def test_training_over_the_api_ends_as_a_subject(served, client, monkeypatch):
    monkeypatch.chdir(ROOT)
    photos = [handle_file(str(path)) for path in sorted((ROOT / "examples" / "clock").glob("*.png"))]
    edits = [{"caption": "{token} {class} at night", "crop": [0.1, 0.2, 0.5]}, None, {}, *[{"caption": ""}] * 2]
    asked = {"class_noun": "clock", "name": "My Clock", "steps": 2, "prior": "none", "edits": edits}
    message, name = client.predict(photos=photos, **asked, api_name="/train")
    jobs: Jobs = served[2]
    assert (message, name) == ("my-clock: started", "my-clock")
    deadline = time.time() + 180
    while (status := jobs.status(jobs.find(name))).state != FINISHED:
        assert time.time() < deadline, status
        assert status.state == "running", status
        time.sleep(0.5)
    assert status.step == status.steps == 2
    assert (jobs.root / "photos" / "my-clock" / "00.txt").read_text() == "{token} {class} at night\n"
    sizes = [Image.open(path).size for path in sorted((jobs.root / "photos" / "my-clock").glob("*.png"))]
    assert sizes[0] == (sizes[1][0] // 2,) * 2
    (training,) = client.predict(api_name="/list_trainings")
    assert (training["name"], training["state"], training["step"]) == ("my-clock", "finished", 2)
    assert str(ROOT) not in str(training)
    grids = client.predict("my-clock", api_name="/samples")
    assert [grid["caption"] for grid in grids] == ["step 0", "step 1", "step 2"]
    assert all(Image.open(grid["image"]).size[0] > 0 for grid in grids)
    assert "my-clock" in {subject["name"] for subject in client.predict(api_name="/list_subjects")}
    for wrong, message in (({"steps": 2, "prior": "magic"}, "magic"), ({"class_noun": "", "name": ""}, "one noun")):
        with pytest.raises(Exception, match=message):
            client.predict(photos=photos, **{**asked, **wrong}, api_name="/train")


def test_one_client_cannot_fill_the_queue(root, tmp_path):
    gate = threading.Event()

    class Slow(FakeEngine):
        def generate(self, order, told, preview=None):
            gate.wait(60)
            return super().generate(order, told)

    generator = Generator(Library(root), Slow(), resolve("starter"), tmp_path / "scratch")
    blocks = build(generator, Jobs(root), Gallery(root))
    blocks.queue(api_open=False)
    access.limit_places(blocks)
    address = server.launch(blocks, Gallery(root), prevent_thread_lock=True, quiet=True)
    try:
        mine = Client(address, verbose=False)
        asked = {"subject": "rex", "prompt": "sks dog", **QUICK, "compare": False}
        first = mine.submit(**asked, api_name="/generate")
        while not generator.engine.drawing.locked() and first.status().code.name != "PROCESSING":
            time.sleep(0.05)
        waiting = [mine.submit(**asked, api_name="/generate") for _ in range(access.PER_SESSION)]
        while max((job.status().rank or 0) for job in waiting) < access.PER_SESSION - 1:
            time.sleep(0.05)
        with pytest.raises(Exception, match=r"400|requests are waiting"):
            mine.submit(**asked, api_name="/generate").result(timeout=30)
        theirs = Client(address, verbose=False).submit(**asked, api_name="/generate")
        assert mine.predict(api_name="/list_subjects")  # what is quick never waits
        gate.set()
        assert all(len(job.result(timeout=60)[0]) == 2 for job in [first, *waiting, theirs])
    finally:
        gate.set()
        blocks.close()


def test_a_foreign_host_name_is_refused(served):
    for name, status in (("evil.example:7860", 400), ("127.0.0.1", 200), ("localhost:7860", 200)):
        for path in ("", "config"):
            assert httpx.get(f"{served[0]}{path}", headers={"Host": name}).status_code == status


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e9}, "learning rate: got 1e.09, expected"),
        ({"learning_rate": 1e-12}, "learning rate: got 1e-12, expected"),
        ({"steps": 10**12}, "steps: got 1e.12, expected 1 to"),
        ({"steps": -1}, "minimum value 1"),
    ],
)
def test_settings_that_can_only_fail_are_refused_with_their_range(served, client, changes, message):
    photos = [handle_file(str(path)) for path in sorted((ROOT / "examples" / "clock").glob("*.png"))]
    with pytest.raises(Exception, match=message):
        client.predict(photos=photos, class_noun="clock", **{"steps": 2, **changes}, api_name="/train")
    assert served[2].all() == []


def test_nothing_is_fetched_from_elsewhere(served):
    html = httpx.get(served[0]).text
    config = httpx.get(f"{served[0]}config").json()
    assert config["analytics_enabled"] is False
    theme = httpx.get(f"{served[0]}theme.css").text
    for text in (html.split("window.gradio_config")[0], theme):
        assert "fonts.googleapis" not in text
        assert "fonts.gstatic" not in text
        assert '<script src="http' not in text


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        ((), False),
        (("--server_name", "0.0.0.0"), True),
        (("--share",), True),
        (("--server_name", "0.0.0.0", "--auth", "me:secret"), False),
    ],
)
def test_serving_beyond_this_machine_without_a_password_warns(arguments, warned, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(server, "launch", lambda blocks, gallery, hosts, **options: "")
    command.main(["--runs", str(tmp_path / "runs"), "--base_model", "starter", *arguments])
    assert ("without a password" in capsys.readouterr().err) == warned


def test_a_password_needs_a_user(tmp_path):
    with pytest.raises(VectorFitError, match="USER:PASSWORD"):
        command.main(["--auth", "secret"])
    assert server.credentials("me:a:b") == ("me", "a:b")
