"""Phase and time left of a training."""

import pytest

from app.pace import CLASS_IMAGES, LOADING, SAMPLES, SAVING, TRAINING, Pace, phase_of
from vf_training.runs import RunFolder


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path)
    run.write_config({"settings": {"max_train_steps": 100, "checkpointing_steps": 25}})
    return run


@pytest.mark.parametrize(
    ("output", "phase"),
    [
        ("", (LOADING, "")),
        ("base model   starter\nphotos       5", (LOADING, "")),
        ("photos 5\nclass images:  10%|# | 4/40 [00:01<00:09]\rclass images:  20%|# | 8/40", (CLASS_IMAGES, "8 of 40")),
        ("class images: 100%|#| 40/40\nmethod       vectorfit: 1 of 2", (SAMPLES, "")),
        ("method  vectorfit\ntraining:   0%|    | 0/100", (TRAINING, "")),
    ],
)
def test_the_output_tells_the_phase(run, output, phase):
    assert phase_of(output, run, 0, 100) == phase


def test_samples_and_saving_are_seen_in_the_run_folder(run):
    run.sample_grid(0).parent.mkdir()
    run.sample_grid(0).write_bytes(b"")
    assert phase_of("training: 24%", run, 24, 100)[0] == TRAINING
    assert phase_of("training: 25%", run, 25, 100)[0] == SAMPLES
    run.checkpoint(25).mkdir(parents=True)
    assert phase_of("training: 25%", run, 25, 100)[0] == TRAINING
    run.checkpoint(100).mkdir()
    assert phase_of("training: 100%", run, 100, 100)[0] == SAVING


def test_loading_and_the_steps_before_a_resume_do_not_count_as_pace():
    pace = Pace()
    for second in range(60):
        pace.observe(LOADING, 75, second)
    for second in range(5):
        pace.observe(TRAINING, 75 + second, 60 + second)
    assert pace.left(79, 100, 0) == pytest.approx(21)


def test_a_cut_log_never_gives_a_negative_time():
    pace = Pace()
    for second, step in enumerate((90, 91, 92, 75, 76, 77, 78)):
        pace.observe(TRAINING, step, second)
    assert pace.left(78, 100, 0) == pytest.approx(22)


def test_sample_grids_are_part_of_the_time_left():
    pace = Pace()
    for second in range(8):
        pace.observe(SAMPLES, 0, second)
    for second in range(5):
        pace.observe(TRAINING, second, 8 + second)
    assert pace.left(4, 100, 4) == pytest.approx(96 + 4 * 8)
    assert Pace().left(0, 100, 4) is None
