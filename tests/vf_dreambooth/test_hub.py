"""The run's card, and its upload, against a hub that answers on this machine."""

import base64
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth import export, generate, hub
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.pipeline import load_pipeline


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files asks for."""

    def answer(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stored(self) -> bytes | None:
        """The stored file of a request such as /me/dog/resolve/main/README.md; tells the client if there is none."""
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        error = {"me/secret": (401, "RepoNotFound")}.get(repository)
        error = error or ((404, "RevisionNotFound") if revision not in ("main", "1" * 40) else None)
        content = None if error else self.server.files.get(name)
        if content is None:
            status, code = error or (404, "EntryNotFound")
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
        else:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def do_HEAD(self):
        self.stored()

    def do_GET(self):
        if "/resolve/" not in self.path:
            self.answer({"id": "me/dog", "sha": "0" * 40, "siblings": []})
        elif (content := self.stored()) is not None:
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.path == "/api/repos/create":
            if self.server.refuses:
                self.send_error(403, "this name is taken")
                return
            self.server.created.append(json.loads(body))
            self.answer({"url": f"{self.server.address}/me/dog", "name": json.loads(body)["name"]})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.answer({"commitUrl": f"{self.server.address}/me/dog/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            self.answer({})

    def log_message(self, *_):
        pass


@pytest.fixture
def fake_hub(monkeypatch, tmp_path_factory):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address, server.asked, server.files, server.refuses = f"http://127.0.0.1:{server.server_port}", [], {}, False
    server.created = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hub, "HfApi", lambda: huggingface_hub.HfApi(endpoint=server.address, token="hf_secret"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
    monkeypatch.setattr(hub, "get_token", lambda: "hf_secret")
    yield server
    server.shutdown()
    server.server_close()


def test_a_run_is_uploaded(fake_hub, arguments, tmp_path, capsys):
    flags = ("--push_to_hub", "--hub_model_id", "me/dog", "--num_validation_images", 1)
    main(arguments(tmp_path / "run", *flags))
    names = {"README.md", "vectors.safetensors", *(f"samples/step_00000{step}.png" for step in (0, 2, 4))}
    assert set(fake_hub.files) == names
    for name, content in fake_hub.files.items():
        assert content == (tmp_path / "run" / name).read_bytes()
    assert fake_hub.asked[0] == ("/api/repos/create", "Bearer hf_secret")
    assert f"uploaded     {fake_hub.address}/me/dog" in capsys.readouterr().out


def test_a_refused_upload_leaves_the_run_and_says_so(fake_hub, arguments, tmp_path):
    fake_hub.refuses = True
    with pytest.raises(vf.VectorFitError, match=r"the run is complete in .*run, but could not be uploaded"):
        main(arguments(tmp_path / "run", "--push_to_hub"))
    assert (tmp_path / "run" / "vectors.safetensors").exists()


def test_a_failed_upload_does_not_stop_the_other_subjects(fake_hub, arguments, photos, tmp_path):
    several = tmp_path / "several"
    for name in ("dog1", "dog2"):
        shutil.copytree(photos, several / name)
    fake_hub.refuses = True
    with pytest.raises(vf.VectorFitError) as caught:
        main(arguments(tmp_path / "out", "--instance_dir", several, "--push_to_hub"))
    assert str(caught.value).count("the run is complete in") == 2
    assert all((tmp_path / "out" / name / "vectors.safetensors").exists() for name in ("dog1", "dog2"))
    fake_hub.refuses = False
    main(arguments(tmp_path / "out", "--instance_dir", several, "--push_to_hub", "--resume_from_checkpoint", "latest"))
    assert "vectors.safetensors" in fake_hub.files
    with pytest.raises(vf.VectorFitError, match="cannot share one repository"):
        main(arguments(tmp_path / "o", "--instance_dir", several, "--push_to_hub", "--hub_model_id", "me/dog"))


def test_a_missing_login_is_said_before_any_work(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(vf.VectorFitError, match="hf auth login"):
        main(arguments(tmp_path / "run", "--push_to_hub"))
    assert not (tmp_path / "run").exists()


def test_privacy_and_licence_reach_the_hub(fake_hub, arguments, tmp_path):
    flags = ("--push_to_hub", "--hub_private_repo", "--hub_license", "creativeml-openrail-m")
    main(arguments(tmp_path / "run", *flags))
    assert fake_hub.created[0]["visibility"] == "private"
    card = huggingface_hub.ModelCard(fake_hub.files["README.md"].decode())
    assert card.data.license == "creativeml-openrail-m"


def test_the_three_lines_of_an_uploaded_card_run_anywhere(fake_hub, arguments, tiny_base, tmp_path, monkeypatch):
    main(arguments(tmp_path / "run", "--push_to_hub", "--hub_model_id", "me/dog"))
    (code,) = re.findall(r"```python\n(.*?)```", fake_hub.files["README.md"].decode(), re.DOTALL)
    assert '("me/dog", 1.0)' in code
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    scope: dict = {}
    exec(code.replace(f'"{tiny_base.name}"', repr(str(tiny_base))), scope)
    moved = vf.vector_parameters({"unet": scope["pipe"].unet, "text_encoder": scope["pipe"].text_encoder})
    assert any(vector.abs().sum() > 0 for vector in moved.values())


def test_a_subject_by_its_hub_id(fake_hub, subject, tiny_base, tmp_path, monkeypatch, quick_preset, capsys):
    fake_hub.files["vectors.safetensors"] = subject.read_bytes()
    monkeypatch.chdir(tmp_path)
    flags = ["--base_model", str(tiny_base), "--prompt", "a dog", "--num", "1", "--num_inference_steps", "2"]
    generate.main(["--vectors", "me/dog", *flags])
    assert (tmp_path / "dog" / "generated" / "grid.png").exists()
    pictures = []
    for given in ("me/dog@" + "1" * 40, str(subject)):
        generate.main(["--vectors", given, *flags, "--out", "pictures"])
        pictures.append((tmp_path / "pictures" / "00-a-dog-0.png").read_bytes())
    assert pictures[0] == pictures[1]
    export.main(["me/dog", "--to", "lora", "--rank", "2", "--base_model", str(tiny_base)])
    assert (tmp_path / "dog" / "lora-diffusers-2.safetensors").exists()


@pytest.mark.parametrize(
    ("hub_id", "why"),
    [
        ("me/none", "has no vectors.safetensors, so it is no subject of VectorFit"),
        ("me/secret", "no such repository, or it is private"),
        ("me/dog@v9", "has no revision 'v9'"),
    ],
)
def test_hub_ids_that_are_no_subject(fake_hub, hub_id, why):
    with pytest.raises(vf.VectorFitError, match=re.escape(why)) as caught:
        load_pipeline(resolve("starter"), [(hub_id, 1.0)])
    assert str(caught.value).startswith(f"{hub_id}: no run folder or subject file here")
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(vf.VectorFitError, match="the hub cannot be reached, and no copy is kept"):
        hub.fetch_subject("me/dog")


def test_what_is_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "here").mkdir(parents=True)
    assert hub.is_hub_id(Path("you/dog"))
    assert hub.is_hub_id(Path("you/dog.v2@main"))
    others = (
        "me/here",
        "me/mistyped",
        "dog",
        "./runs/me/dog",
        "/you/dog",
        "../you",
        "you/vectors.safetensors",
        "a/b/c",
    )
    assert not any(hub.is_hub_id(Path(other)) for other in others)


def test_a_base_of_another_kind_is_refused_before_its_weights_are_fetched(fake_hub):
    fake_hub.files["model_index.json"] = json.dumps({"_class_name": "KandinskyPipeline"}).encode()
    with pytest.raises(vf.VectorFitError, match=r"base model 'me/other': a KandinskyPipeline, expected a"):
        load(resolve("me/other"))
    assert {path.rpartition("/")[2] for path, _ in fake_hub.asked} == {"model_index.json"}
