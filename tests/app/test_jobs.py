"""Trainings as processes: one at a time, stopped, resumed, found again. A small script stands in for the real one."""

import textwrap
import time

import psutil
import pytest
from PIL import ExifTags, Image

from app import jobs as jobs_module
from app.jobs import FAILED, FINISHED, MAX_PHOTOS, MAX_WAITING, QUEUED, RUNNING, STOPPED, Jobs
from vectorfit import VectorFitError

# Writes a run folder as the real one does, a step every few hundredths of a second, and ends after SIGTERM's step.
SCRIPT = """
import json, pathlib, signal, sys, time
flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
resumed = "resume_from_checkpoint" in flags
run = pathlib.Path(flags["resume_from_checkpoint"] if resumed else flags["output_dir"])
run.mkdir(parents=True, exist_ok=True)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
def write_config(config):
    (run / "config.tmp").write_text(json.dumps(config))
    (run / "config.tmp").replace(run / "config.json")  # who reads meanwhile never sees a part of it
if resumed:
    config = json.loads((run / "config.json").read_text())
else:
    if flags.get("class_noun") == "nothing":
        sys.exit("error: --class_noun: nothing is no noun")
    assert len(list(pathlib.Path(flags["instance_dir"]).glob("*.png"))) == 3
    config = {"settings": {"max_train_steps": int(flags["max_train_steps"])}}
    write_config(config)
log = run / "log.jsonl"
done = len(log.read_text().splitlines()) if log.exists() else 0
for step in range(done + 1, config["settings"]["max_train_steps"] + 1):
    time.sleep(0.03)
    with log.open("a") as file:
        file.write(json.dumps({"step": step, "loss": 1 / step}) + "\\n")
    if asked:
        sys.exit(130)
(run / "vectors.safetensors").write_bytes(b"")
write_config({**config, "seconds": 1.0})
"""


@pytest.fixture
def photos(tmp_path):
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.jpg")
    return sorted(tmp_path.glob("*.jpg"))


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    (tmp_path / "stand_in_training.py").write_text(textwrap.dedent(SCRIPT))
    monkeypatch.setattr(jobs_module, "SCRIPT", "stand_in_training")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    queue = Jobs(tmp_path / "runs")
    yield queue
    for job in queue.all():
        process = job.process()
        if process:
            process.kill()


def wait(jobs, name, *states):
    for _ in range(1000):
        jobs.start_next()
        status = jobs.status(jobs.find(name))
        if status.state in states:
            return status
        time.sleep(0.02)
    raise AssertionError(status)


def running(jobs):
    return [job.name for job in jobs.all() if job.process()]


def test_memory_is_freed_before_every_start_and_only_then(jobs, photos):
    freed = []
    jobs.before_start = lambda: freed.append(running(jobs))
    for _ in range(2):
        jobs.add(photos, "rex", ["--max_train_steps=3"])
    assert freed == [[]]
    wait(jobs, "rex-2", FINISHED)
    assert freed == [[], []]


def test_one_runs_at_a_time_in_the_order_they_came(jobs, photos):
    names = [jobs.add(photos, "rex", ["--max_train_steps=5"]).name for _ in range(3)]
    assert names == ["rex", "rex-2", "rex-3"]
    ended = []
    for _ in range(2000):
        jobs.start_next()
        assert len(running(jobs)) <= 1
        ended += [n for n in names if n not in ended and jobs.status(jobs.find(n)).state == FINISHED]
        if len(ended) == 3:
            break
        time.sleep(0.01)
    assert ended == names
    status = jobs.status(jobs.find("rex"))
    assert (status.step, status.steps, status.loss) == (5, 5, 0.2)


def test_stopping_keeps_what_was_done_and_resuming_goes_on(jobs, photos):
    jobs.add(photos, "rex", ["--max_train_steps=60"])
    while jobs.status(jobs.find("rex")).step < 3:
        time.sleep(0.02)
    jobs.stop("rex")
    stopped = wait(jobs, "rex", STOPPED)
    assert 3 <= stopped.step < 60
    jobs.resume("rex")
    assert wait(jobs, "rex", FINISHED).step == 60
    steps = [line["step"] for line in jobs_module.RunFolder(jobs.root / "rex").read_log()]
    assert steps == list(range(1, 61))
    with pytest.raises(VectorFitError, match="finished"):
        jobs.resume("rex")


def test_a_queued_one_leaves_the_queue(jobs, photos):
    jobs.add(photos, "first", ["--max_train_steps=40"])
    jobs.add(photos, "second", ["--max_train_steps=1"])
    assert jobs.status(jobs.find("second")).state == QUEUED
    jobs.stop("second")
    assert wait(jobs, "first", FINISHED)
    jobs.start_next()
    assert jobs.status(jobs.find("second")).state == STOPPED
    jobs.resume("second")
    assert wait(jobs, "second", FINISHED)


def test_a_restarted_app_finds_a_running_training_again(jobs, photos):
    jobs.add(photos, "rex", ["--max_train_steps=60"])
    restarted = Jobs(jobs.root)
    assert restarted.status(restarted.find("rex")).state == RUNNING
    restarted.add(photos, "other", ["--max_train_steps=1"])
    assert running(restarted) == ["rex"]  # it is not started beside the one that runs
    restarted.stop("rex")
    assert wait(restarted, "rex", STOPPED, FAILED).state == STOPPED
    assert wait(restarted, "other", FINISHED)


def test_a_process_id_that_another_process_has_now_is_not_taken_for_the_training(jobs, photos):
    jobs.add(photos, "rex", ["--max_train_steps=1"])
    wait(jobs, "rex", FINISHED)
    job = jobs.find("rex")
    job.pid = 1
    assert job.process() is None


def test_a_failure_tells_its_reason_and_can_be_resumed(jobs, photos):
    jobs.add(photos, "rex", ["--max_train_steps=2", "--class_noun=nothing"])
    status = wait(jobs, "rex", FAILED)
    assert status.message == "error: --class_noun: nothing is no noun"


def test_photos_are_copied_upright_and_without_what_cameras_add(jobs, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by a quarter
    exif[ExifTags.Base.Make] = "a camera's maker"
    for number in range(3):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{number}.jpg", exif=exif)
    jobs.add(sorted(tmp_path.glob("*.jpg")), "../..", ["--max_train_steps=1"])
    (kept, *_) = sorted((jobs.root / "photos" / "subject").iterdir())
    with Image.open(kept) as image:
        assert image.size == (10, 20)
        assert not image.getexif()


def test_too_many_and_unreadable_photos_and_a_full_queue_are_refused(jobs, photos, tmp_path):
    for number in (0, 2, MAX_PHOTOS + 1):
        with pytest.raises(VectorFitError, match=f"got {number} photos; expected 3 to 10"):
            jobs.add([photos[0]] * number, "rex", [])
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    with pytest.raises(VectorFitError, match="not a JPEG"):
        jobs.add([*photos, tmp_path / "bad.jpg"], "rex", [])
    assert jobs.all() == []
    assert list((jobs.root / "photos").glob("*")) == []
    for _ in range(MAX_WAITING + 1):
        jobs.add(photos, "rex", ["--max_train_steps=1000"])
    with pytest.raises(VectorFitError, match="which is the limit"):
        jobs.add(photos, "rex", ["--max_train_steps=1"])


def test_two_apps_on_one_folder_start_one_training(jobs, photos):
    other = Jobs(jobs.root)
    jobs.add(photos, "rex", ["--max_train_steps=30"])
    jobs.add(photos, "second", ["--max_train_steps=1"])
    for _ in range(5):
        jobs.start_next()
        other.start_next()
        assert running(jobs) == running(other) == ["rex"]


def test_a_second_stop_sends_no_second_signal(jobs, photos, monkeypatch):
    jobs.add(photos, "rex", ["--max_train_steps=60"])
    while jobs.status(jobs.find("rex")).step < 2:
        time.sleep(0.02)
    sent = []
    with monkeypatch.context() as patch:
        patch.setattr(psutil.Process, "send_signal", lambda self, number: sent.append(number))
        jobs.stop("rex")
        jobs.stop("rex")
    assert len(sent) == 1
    jobs.find("rex").process().terminate()
    assert wait(jobs, "rex", STOPPED).step < 60
    jobs.stop("rex")
    assert jobs.status(jobs.find("rex")).state == STOPPED


def test_stopping_what_has_failed_keeps_its_reason(jobs, photos):
    jobs.add(photos, "rex", ["--max_train_steps=2", "--class_noun=nothing"])
    wait(jobs, "rex", FAILED)
    jobs.stop("rex")
    assert "no noun" in jobs.status(jobs.find("rex")).message


def test_what_cannot_be_started_does_not_block_the_queue(jobs, photos):
    jobs.add(photos, "bad", ["--class_noun=a\0b"])
    jobs.add(photos, "good", ["--max_train_steps=1"])
    assert wait(jobs, "good", FINISHED)
    status = jobs.status(jobs.find("bad"))
    assert (status.state, "could not be started" in status.message) == (FAILED, True)


def test_photos_that_were_left_behind_do_not_block_their_name(jobs, photos):
    (jobs.root / "photos" / "rex").mkdir(parents=True)
    assert jobs.add(photos, "rex", ["--max_train_steps=1"]).name == "rex-2"


def test_a_damaged_record_does_not_hide_the_others(jobs, photos):
    jobs.add(photos, "rex", ["--max_train_steps=1"])
    wait(jobs, "rex", FINISHED)
    (jobs.root / "rex" / "config.json").write_text("{")
    assert jobs.status(jobs.find("rex")).state == FAILED
    (jobs.folder / "odd.json").write_text("{}")
    assert [job.name for job in jobs.all()] == ["rex"]
