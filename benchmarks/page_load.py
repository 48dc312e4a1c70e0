"""Five clients ask for ten pictures each while a training runs; then the server is killed.

`python -m benchmarks.page_load`; needs Playwright and a Chromium.

It counts what is lost or mixed up, the places that clients are told, the memory of the server, and what a killed server
leaves: the gallery, and the training, which goes on.
"""

import argparse
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from gradio_client import Client, handle_file

from app.jobs import RUNNING, Jobs
from benchmarks.page_server import browser, serve, untrained
from benchmarks.table import write_table
from vf_dreambooth.images import read_parameters

RESULT = Path(__file__).with_suffix(".md")
CLIENTS, EACH = 5, 10
STEPS = 10  # of a picture
LOOK = 0.5  # seconds between two looks at a client's places


@dataclass
class Answers:
    """What one client got."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    places: set[int] = field(default_factory=set)


def ask(address: str, number: int, subject: dict) -> Answers:
    """One client's requests, all at once; every answer must be its own."""
    client, answers, began = Client(address, verbose=False), Answers(), time.perf_counter()
    seeds = [1000 * number + index for index in range(EACH)]
    asked = {"subject": subject["name"], "count": 1, "steps": STEPS, "compare": False, "random_seed": False}
    prompt = f"{subject['trigger']} number {number}"
    jobs = [client.submit(**asked, prompt=prompt, seed=seed, api_name="/generate") for seed in seeds]
    open_jobs = dict(zip(seeds, jobs, strict=True))
    while open_jobs:
        time.sleep(LOOK)
        for seed, job in list(open_jobs.items()):
            answers.places |= {job.status().rank} - {None}
            if job.done():
                del open_jobs[seed]
                answers.seconds.append(time.perf_counter() - began)
    for seed, job in zip(seeds, jobs, strict=True):
        try:
            (image,) = job.result()[0]
            told = read_parameters(Path(image["image"]))
            answers.wrong += (told["seed"], told["prompt"], told["subjects"][0]["name"]) != (
                seed,
                prompt,
                subject["name"],
            )
        except Exception as error:
            print(f"lost: client {number}, seed {seed}: {error}")
            answers.lost += 1
    return answers


class Memory:
    """The most memory that a process had, in bytes."""

    def __init__(self, pid: int) -> None:
        self.process, self.most, self._stop = psutil.Process(pid), 0, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            try:
                self.most = max(self.most, self.process.memory_info().rss)
            except psutil.Error:
                return

    def stop(self) -> int:
        self._stop.set()
        return self.most


def killed(server: Any, address: str, runs: Path, training: str) -> tuple[int, int, int]:
    """Kills the server between two pictures of a drawing: pictures before and after, new steps of the training."""
    jobs = Jobs(runs)
    with browser() as chromium:
        page = chromium.new_page()
        page.set_default_timeout(600_000)
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_function("document.querySelector('#prompt textarea')?.value")
        page.locator("#generate").click()
        page.locator("#results .zoom").first.wait_for()
        before, step = page.locator("#results .zoom").count(), jobs.status(jobs.find(training)).step
        server.kill()
        server.wait()
        again, _ = serve(runs, int(address.rstrip("/").rpartition(":")[2]))
        try:
            page.goto(address, wait_until="domcontentloaded")
            page.locator("#results .zoom").first.wait_for()
            kept = page.evaluate(
                "[...document.querySelectorAll('#results .zoom img')].filter((e) => e.naturalWidth).length"
            )
            deadline = time.monotonic() + 120
            while (after := jobs.status(jobs.find(training)).step) == step and time.monotonic() < deadline:
                time.sleep(0.5)
        finally:
            again.terminate()
            again.wait()
    return before, kept, after - step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="steps of the training beside (default 400)")
    flags = parser.parse_args()
    photos = untrained()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        server, address = serve(runs)
        client = Client(address, verbose=False)
        subjects = client.predict(api_name="/list_subjects")
        files = [handle_file(str(path)) for path in sorted(photos.glob("*.png"))[:5]]
        asked = {"class_noun": photos.name, "steps": flags.steps, "prior": "none", "api_name": "/train"}
        _, training = client.predict(photos=files, **asked)
        jobs = Jobs(runs)
        while not (status := jobs.status(jobs.find(training))).step:
            if status.state != RUNNING:
                raise SystemExit(f"error: the training is {status.state}: {status.message}")
            time.sleep(0.5)
        client.predict(subjects[0]["name"], prompt=subjects[0]["trigger"], steps=STEPS, api_name="/generate")
        idle = psutil.Process(server.pid).memory_info().rss
        memory, began, step = Memory(server.pid), time.perf_counter(), status.step
        with ThreadPoolExecutor(CLIENTS) as pool:
            asked_of = [subjects[number % len(subjects)] for number in range(CLIENTS)]
            answers = list(pool.map(ask, [address] * CLIENTS, range(1, CLIENTS + 1), asked_of))
        took, most = time.perf_counter() - began, memory.stop()
        trained = jobs.status(jobs.find(training)).step - step
        before, kept, after = killed(server, address, runs, training)
        jobs.stop(training)
        while jobs.find(training).process():
            time.sleep(0.5)
    seconds = sorted(each for one in answers for each in one.seconds)
    rows = [
        ["requests, answered", f"{CLIENTS * EACH}, {CLIENTS * EACH - sum(one.lost for one in answers)}"],
        ["answers that belong to another request", str(sum(one.wrong for one in answers))],
        ["places that every client was told", "; ".join(f"{min(one.places)} to {max(one.places)}" for one in answers)],
        ["all answered after, s", f"{took:.0f}"],
        ["an answer after, s: median, last", f"{median(seconds):.0f}, {seconds[-1]:.0f}"],
        ["steps that the training beside took meanwhile", str(trained)],
        ["memory of the server before, at most, MiB", f"{idle / 2**20:.0f}, {most / 2**20:.0f}"],
        ["pictures of a drawing when the server was killed, afterwards", f"{before}, {kept}"],
        ["steps that the training took over the killed server", str(after)],
    ]
    notes = f"""Every client asks for {EACH} pictures of {STEPS} steps at once, with its own seeds and prompt, beside
one training. Every answer is checked by the settings in its PNG. A place is the number of requests before one in the
queue. SIGKILL ends the server between two pictures of a drawing; the browser finds those that were done again.
Seconds and steps are those of one run on two cores, with that training and little else beside."""
    write_table(RESULT, "Many requests at once", "python -m benchmarks.page_load", ["", ""], rows, notes)
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
