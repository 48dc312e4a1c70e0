"""The run's card, and its upload, against a hub that answers on this machine."""

import base64
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth import hub


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files asks for."""

    def answer(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"id": "me/dog", "sha": "0" * 40, "siblings": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.path == "/api/repos/create":
            if self.server.refuses:
                self.send_error(403, "this name is taken")
                return
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
def fake_hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address, server.asked, server.files, server.refuses = f"http://127.0.0.1:{server.server_port}", [], {}, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    monkeypatch.setattr(hub, "HfApi", lambda: huggingface_hub.HfApi(endpoint=server.address, token="hf_secret"))
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
