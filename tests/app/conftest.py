import pytest

pytest.importorskip("gradio")

from tests.app.stand_ins import write_subject


@pytest.fixture(scope="session")
def subject_file(tmp_path_factory):
    """A subject file on the starter."""
    return write_subject(tmp_path_factory.mktemp("subject") / "dog.safetensors")


@pytest.fixture
def root(tmp_path, subject_file):
    """A folder of runs with one finished run in it."""
    run = tmp_path / "runs" / "rex"
    run.mkdir(parents=True)
    (run / "vectors.safetensors").write_bytes(subject_file.read_bytes())
    settings = '{"class_noun": "dog", "max_train_steps": 2}'
    (run / "config.json").write_text(
        f'{{"settings": {settings}, "base": {{"name": "starter", "location": "starter"}}, "seconds": 1.5}}'
    )
    (run / "log.jsonl").write_text(
        '{"step": 1, "loss": 0.5, "frozen": []}\n{"step": 2, "loss": 0.25, "frozen": ["unet.conv.sigma"]}\n'
    )
    return tmp_path / "runs"
