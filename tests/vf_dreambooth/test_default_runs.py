"""Folders of runs that the user did not name: free ones, and the newest."""

import os

from vf_dreambooth.default_runs import free_folder, newest_run


def make_run(folder, when):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    os.utime(folder / "config.json", (when, when))


def test_a_free_folder_is_the_first_that_does_not_exist(tmp_path):
    names = []
    for _ in range(4):
        folder = free_folder(tmp_path / "dog")
        folder.mkdir()
        names.append(folder.name)
    assert names == ["dog", "dog-2", "dog-3", "dog-4"]
    (tmp_path / "dog-2").rmdir()
    assert free_folder(tmp_path / "dog").name == "dog-2"


def test_a_file_takes_the_name_too(tmp_path):
    (tmp_path / "dog").write_text("")
    assert free_folder(tmp_path / "dog").name == "dog-2"


def test_the_newest_run_is_the_one_whose_settings_were_written_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos" / "dog"
    assert newest_run(photos) is None
    for name, when in (("dog", 100), ("dog-2", 200), ("dog-10", 300)):
        make_run(tmp_path / "runs" / name, when)
    assert newest_run(photos).path.name == "dog-10"


def test_runs_of_other_photos_and_folders_without_settings_do_not_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dogs", "dog-a", "my-dog", "dog-2-backup", "dXg"):
        make_run(tmp_path / "runs" / name, 100)
    (tmp_path / "runs" / "dog").mkdir()
    assert newest_run(tmp_path / "dog") is None
    make_run(tmp_path / "runs" / "d.g", 100)
    assert newest_run(tmp_path / "d.g").path.name == "d.g"  # a dot in a name is a dot


def test_a_run_is_found_by_the_photos_own_name_wherever_the_path_leads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "dog").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "photos" / "dog")
    make_run(free_folder(tmp_path / "runs" / "dog"), 100)
    for photos in ("link", "photos/dog/", "photos/../photos/dog"):
        assert newest_run(tmp_path / photos).path.name == "dog"
