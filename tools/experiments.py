"""Make the stored results that the lessons read, each by its name:

    python tools/experiments.py faces seeds baseline critic
    python tools/experiments.py photographs --folder path/to/gray/photographs

faces        nbs/faces/: the two checkpoints of a quick start with seed 0; nbs/images/quickstart.png
seeds        nbs/experiments/07_seeds.json: both methods, seeds 0, 1, 2, the quick start's settings
baseline     nbs/experiments/07_baseline.json: the standard method at heavier reconstruction weights
critic       nbs/experiments/06_critic.json: a critic that begins with stride 2, and today's, 1000 steps
photographs  nbs/experiments/07_photographs.json, nbs/images/photographs.png: both methods on a folder

Each run is a process of its own with one thread; `--workers` of them run side by side. Every result
names its machine and seed. A run of 3000 steps takes about five minutes on one CPU core. What a lesson
makes itself (06_runs, 06_defaults, 09_bench, 09_precision) is made by deleting the file and running it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS, IMAGES = ROOT / "nbs/experiments", ROOT / "nbs/images"
METHODS = ("standard", "proposed")
OLD_CRITIC = dict(
    discriminator_channels=(64, 64, 64, 1), discriminator_strides=(2, 1, 1, 1), discriminator_lr=5e-4
)


def plan(names: list[str], folder: str | None) -> dict[str, dict]:
    "What to train: a label for each run, and how it differs from the quick start."
    runs: dict[str, dict] = {}
    if "faces" in names or "seeds" in names or "baseline" in names:
        runs |= {f"seed0-{method}": dict(method=method) for method in METHODS}
    if "seeds" in names:
        runs |= {f"seed{s}-{method}": dict(method=method, seed=s) for s in (1, 2) for method in METHODS}
    if "baseline" in names:
        weights = (15000.0, 38000.0)
        runs |= {f"weight{w:.0f}": dict(method="standard", reconstruction_weight=w) for w in weights}
    if "critic" in names:
        runs |= {"critic-old": dict(OLD_CRITIC, steps=1000), "critic-new": dict(steps=1000)}
    if "photographs" in names:
        photographs = dict(dataset=folder, data_size=None, in_channels=1)
        runs |= {f"photographs-{method}": dict(photographs, method=method) for method in METHODS}
    return runs


def train_one(label: str, changes: dict, device: str, out: Path) -> None:
    "One run: its checkpoint in `out`/label, its measurements in metrics.json there."
    import torch

    from vae_tutorial.config import PRESETS, TrainConfig
    from vae_tutorial.device import choose_device, describe_machine
    from vae_tutorial.images.batches import load_batch
    from vae_tutorial.loop import split_data, train
    from vae_tutorial.measurements import measure

    torch.set_num_threads(1)
    config = TrainConfig(**(PRESETS["quick"] | dict(device=device, out=str(out / label)) | changes))
    splits = split_data(None, config)
    run = train(config, tuple(splits))
    torch.manual_seed(0)  # of the Monte Carlo estimates
    measured = measure(run, load_batch(splits[1], torch.arange(min(256, len(splits[1])))))
    last = [record for record in run.history if "images_per_second" in record][-1]
    about = dict(machine=describe_machine(choose_device(device)), seconds=last["seconds"], steps=run.step)
    (out / label / "metrics.json").write_text(json.dumps(measured | about, indent=1) + "\n")
    print(f"{label}: {measured['psnr']:.2f} dB, {last['seconds']:.0f} s", flush=True)


def numbers(out: Path, label: str) -> dict:
    "The measurements of a run alone, without machine and time."
    kept = json.loads((out / label / "metrics.json").read_text())
    return {name: value for name, value in kept.items() if name not in ("machine", "seconds")}


def about(out: Path, label: str) -> dict:
    "Machine, settings and seed of a run."
    settings = json.loads((out / label / "config.json").read_text())["config"]
    settings = {name: value for name, value in settings.items() if name not in ("out", "dataset", "method")}
    machine = json.loads((out / label / "metrics.json").read_text())["machine"]
    return dict(seed=settings["seed"], machine=machine, settings=settings)


def write(name: str, value: object) -> None:
    (EXPERIMENTS / name).write_text(json.dumps(value, indent=1) + "\n")
    print(f"nbs/experiments/{name}", flush=True)


def slim(source: Path, target: Path) -> None:
    "A checkpoint to load and to look at: both networks alone, of a run on any device, in any folder."
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source / "checkpoint.safetensors", "pt") as file:
        kept = [name for name in file.keys() if name.startswith(("model.", "discriminator."))]
        tensors = {name: file.get_tensor(name) for name in kept}
        about = json.loads(file.metadata()["about"])
    about["config"] |= dict(device="auto", out=f"faces/{target.name}", save_every=None)
    save_file(tensors, target / "checkpoint.safetensors", metadata={"about": json.dumps(about)})
    (target / "config.json").write_text(json.dumps(about, indent=1) + "\n")


def picture(out: Path, prefix: str, path: Path, n: int = 10) -> None:
    "Held-out images above both methods' reconstructions."
    import torch

    from vae_tutorial.checkpoint import load
    from vae_tutorial.figures import reconstructions
    from vae_tutorial.images.batches import load_batch
    from vae_tutorial.loop import split_data

    runs = {method: load(out / f"{prefix}-{method}") for method in METHODS}
    held_out = load_batch(split_data(None, runs["proposed"].config)[1], torch.arange(n))
    reconstructions({method: run.model for method, run in runs.items()}, held_out, path=path)


def gather(names: list[str], out: Path) -> None:
    "Write the files that the lessons read."
    if "faces" in names:
        for method in METHODS:
            target = ROOT / "nbs/faces" / method
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            shutil.copy(out / f"seed0-{method}/history.json", target / "history.json")
            slim(out / f"seed0-{method}", target)
        picture(out, "seed0", IMAGES / "quickstart.png")
    if "seeds" in names:
        rows = []
        for seed in (0, 1, 2):
            labels = {method: f"seed{seed}-{method}" for method in METHODS}
            measured = {method: numbers(out, label) for method, label in labels.items()}
            rows.append(about(out, labels["proposed"]) | measured)
        write("07_seeds.json", rows)
    if "baseline" in names:
        labels = ("weight15000", "weight38000")
        rows = [dict(reconstruction_weight=float(w[6:]), **about(out, w), **numbers(out, w)) for w in labels]
        write("07_baseline.json", rows)
    if "critic" in names:
        write("06_critic.json", [about(out, w) | numbers(out, w) for w in ("critic-old", "critic-new")])
    if "photographs" in names:
        labels = {method: f"photographs-{method}" for method in METHODS}
        measured = {method: numbers(out, label) for method, label in labels.items()}
        write("07_photographs.json", about(out, labels["proposed"]) | measured)
        picture(out, "photographs", IMAGES / "photographs.png")


def main() -> None:
    choices = ("faces", "seeds", "baseline", "critic", "photographs")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(choices))
    parser.add_argument("--folder", help="of photographs, for `photographs`")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side (default: 1)")
    parser.add_argument("--runs", type=Path, help="keep the runs in this folder (default: a temporary one)")
    parser.add_argument("--steps", type=int, help="fewer steps, to try this script; nothing is stored then")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # label and changes: a run's own process
    given = parser.parse_args()
    if given.one:
        return train_one(given.one[0], json.loads(given.one[1]), given.device, given.runs)
    if not given.names or set(given.names) - set(choices):
        parser.error(f"name at least one of {', '.join(choices)}")
    if "photographs" in given.names and not given.folder:
        parser.error("photographs needs --folder")
    with tempfile.TemporaryDirectory() as temporary:
        out = (given.runs or Path(temporary)).resolve()
        runs = plan(given.names, given.folder)
        if given.steps:
            runs = {label: changes | dict(steps=given.steps) for label, changes in runs.items()}

        def start(item: tuple[str, dict]) -> None:
            command = [sys.executable, __file__, "--one", item[0], json.dumps(item[1])]
            command += ["--device", given.device, "--runs", str(out)]
            subprocess.run(command, check=True, env=dict(os.environ, OMP_NUM_THREADS="1"))

        if any(changes.get("dataset") is None for changes in runs.values()):
            from vae_tutorial.config import PRESETS
            from vae_tutorial.images.datasets import open_dataset

            quick = PRESETS["quick"]
            faces = open_dataset("faces", quick["image_size"], n=quick["data_size"])
            faces.train.dataset.faces.images()  # drawn once, into the cache, for all processes
        with ThreadPoolExecutor(given.workers) as pool:
            list(pool.map(start, runs.items()))
        if not given.steps:
            gather(given.names, out)


if __name__ == "__main__":
    main()
