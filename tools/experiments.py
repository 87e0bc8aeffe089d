"""Make the stored results that the lessons read, each by its name:

    python tools/experiments.py faces critic ablation
    python tools/experiments.py photographs --folder path/to/gray/photographs

faces        nbs/faces/: the two checkpoints of a quick start with seed 0
ablation     nbs/experiments/ablation.json: three KLs, each with and without regularizer and critic; the KL
             of the whole covariance; the standard method at heavier weights; seeds 0, 1, 2 of each
recipe       nbs/experiments/recipe.json: what keeps a longer run good, one change at a time, seeds 0, 1
ending       nbs/experiments/ending.json: 5000 steps more of the shipped proposed model and its critic, at
             a fifth of its rates falling to 0, one change at a time, seed 0
critic       nbs/experiments/critic.json: a critic that begins with stride 2, and today's, 1000 steps
photographs  nbs/experiments/photographs.json, nbs/images/photographs.png: the corners of `ablation` that
             matter, on a folder, seed 0
own          nbs/experiments/own_pictures.json, nbs/images/own_pictures.png: the preset `faces` on a folder at
             64 pixels in gray, 10,000 steps, seed 0

Each run is a process of its own with one thread; `--workers` of them run side by side. Every result
names its machine and seed. A run of 3000 steps takes about five minutes on one CPU core. What a lesson
makes itself (runs, defaults, bench, precision) is made by deleting the file and running it.
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
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS, IMAGES = ROOT / "nbs/experiments", ROOT / "nbs/images"
METHODS = ("standard", "proposed")
KLS = {
    "average": dict(population=False),
    "between": dict(variance="between"),
    "total": dict(variance="total"),
}
PARTS: dict[str, dict] = {  # of the objective, by what is in it
    f"{kl}{' regularizer' * regularizer}{' critic' * critic}": dict(
        which, regularizer=regularizer, patchgan=critic
    )
    for kl, which in KLS.items()
    for regularizer in (False, True)
    for critic in (False, True)
}
PARTS |= {
    "full regularizer critic": dict(variance="full"),
    "standard 15000": dict(method="standard", reconstruction_weight=15000.0),
    "standard 38000": dict(method="standard", reconstruction_weight=38000.0),
}
CORNERS: dict[str, dict] = {  # on photographs, which are gray: a third of the numbers a pixel
    "standard": dict(method="standard"),
    "standard 13000": dict(method="standard", reconstruction_weight=13000.0),
    "average critic": PARTS["average critic"],
    "between regularizer": PARTS["between regularizer"],
    "proposed": {},
}
LONGER = dict(steps=4000, schedule="cosine", discriminator_lr=1e-3, valid_every=500)
RECIPES: dict[str, dict] = {
    "constant rates": dict(schedule="constant"),
    "cosine": {},
    "half of both rates": dict(lr=1e-3, discriminator_lr=5e-4),
    "half the critic's rate": dict(discriminator_lr=5e-4),
    "half the critic's width": dict(discriminator_channels=(16, 32, 32, 32, 1)),
    "penalty 0.1": dict(r1=0.1),
    "penalty 1": dict(r1=1.0),
    "clip 1000": dict(clip=1000.0),
    "spectral norm": dict(trial="spectral norm"),
    "instance noise": dict(trial="instance noise"),
    "delayed critic": dict(trial="delayed critic"),
    "adaptive weight": dict(trial="adaptive weight", precision="float32"),  # one x_hat for both terms
}
ENDINGS: dict[str, dict] = {
    "as it was": {},
    "half the critic's weight": dict(gan_weight=50.0),
    "penalty 1": dict(r1=1.0),
    "a quarter of the critic's rate": dict(discriminator_lr=2.5e-5),
}
OLD_CRITIC = dict(
    discriminator_channels=(64, 64, 64, 1), discriminator_strides=(2, 1, 1, 1), discriminator_lr=5e-4
)


def plan(names: list[str], folder: str | None) -> dict[str, dict]:
    "What to train: a label for each run, and how it differs from the quick start."
    from vae_tutorial.config import PRESETS

    runs: dict[str, dict] = {}
    if "faces" in names:
        runs |= {f"seed0-{method}": dict(method=method) for method in METHODS}
    if "critic" in names:
        runs |= {"critic-old": dict(OLD_CRITIC, steps=1000), "critic-new": dict(steps=1000)}
    if "ablation" in names:
        runs |= {f"ablation {name} {s}": dict(part, seed=s) for s in range(3) for name, part in PARTS.items()}
    if "recipe" in names:
        runs |= {
            f"recipe {name} {s}": LONGER | part | dict(seed=s)
            for s in range(2)
            for name, part in RECIPES.items()
        }
    if "ending" in names:
        ending = PRESETS["faces"] | dict(go_on="faces-64", steps=5000, lr=4e-4, discriminator_lr=1e-4)
        runs |= {f"ending {name}": ending | part for name, part in ENDINGS.items()}
    if "photographs" in names:
        photographs = dict(dataset=folder, data_size=None, in_channels=1)
        runs |= {f"photographs {name}": photographs | corner for name, corner in CORNERS.items()}
    if "own" in names:
        own = dict(dataset=folder, data_size=None, in_channels=1, steps=10_000, valid_every=1000)
        runs["own pictures"] = PRESETS["faces"] | own
    return runs


def trial(kind: str, config: Any) -> tuple[Any, Any]:
    "A discriminator of its own, or None, and a context in which to train: what was tried and is no setting."
    from contextlib import nullcontext
    from unittest.mock import patch

    import torch

    from vae_tutorial import step
    from vae_tutorial.patchgan import PatchDiscriminator

    torch.manual_seed(config.seed)

    class Noisy(PatchDiscriminator):
        "Sees images through noise of standard deviation 0.1 while it is trained."

        def forward(self, x):
            return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x)

    def delayed(logits: torch.Tensor, weight: float) -> torch.Tensor:
        delayed.calls += 1  # type: ignore[attr-defined]
        on = delayed.calls > config.steps / 5  # type: ignore[attr-defined]
        return original(logits, weight) if on else 0 * logits.sum()

    def adaptive(x, x_hat, mean, logvar, logits, config, memory=None):
        "The adversarial term as strong at the picture as the reconstruction (VQGAN's, at its last layer)."
        loss = plain(x, x_hat, mean, logvar, logits, config, memory)
        if not x_hat.requires_grad:
            return loss
        to_picture = [
            torch.autograd.grad(term, x_hat, retain_graph=True)[0].norm()
            for term in (loss.reconstruction, loss.adversarial)
        ]
        factor = (0.3 * to_picture[0] / to_picture[1].clamp_min(1e-6)).clamp_max(10).detach()
        adversarial = factor * loss.adversarial
        return loss._replace(total=loss.total - loss.adversarial + adversarial, adversarial=adversarial)

    original, plain = step.generator_loss, step.vae_loss
    delayed.calls = 0  # type: ignore[attr-defined]
    if kind == "delayed critic":
        return None, patch.object(step, "generator_loss", delayed)
    if kind == "adaptive weight":
        return None, patch.object(step, "vae_loss", adaptive)
    arguments = (config.in_channels, config.discriminator_channels, config.strides(), config.norm)
    if kind == "instance noise":
        return Noisy(*arguments), nullcontext()
    critic = PatchDiscriminator(*arguments)
    for layer in critic.layers:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.utils.parametrizations.spectral_norm(layer)
    return critic, nullcontext()


def train_one(label: str, changes: dict, device: str, out: Path) -> None:
    "One run: its checkpoint in `out`/label, its measurements in metrics.json there; none that is there."
    from contextlib import nullcontext

    import torch

    from vae_tutorial.checkpoint import load
    from vae_tutorial.config import PRESETS, TrainConfig
    from vae_tutorial.device import choose_device, describe_machine
    from vae_tutorial.images.batches import load_batch
    from vae_tutorial.loop import _split_data, train
    from vae_tutorial.measurements import measure

    torch.set_num_threads(1)
    if (out / label / "metrics.json").exists():
        return
    kind, before = changes.pop("trial", None), changes.pop("go_on", None)
    config = TrainConfig(**(PRESETS["quick"] | dict(device=device, out=str(out / label)) | changes))
    critic, context = trial(kind, config) if kind else (None, nullcontext())
    model = None
    if before:
        start = load(before)
        model, critic = start.model, start.discriminator
    splits = _split_data(None, config)
    shutil.rmtree(out / label, ignore_errors=True)  # what an interrupted run left
    with context:
        run = train(config, tuple(splits), model=model, discriminator=critic)
    torch.manual_seed(0)  # of the Monte Carlo estimates
    measured = measure(run, load_batch(splits[1], torch.arange(min(256, len(splits[1])))))
    measured |= from_codes(run.model, splits)
    last = [record for record in run.history if "images_per_second" in record][-1]
    about = dict(machine=describe_machine(choose_device(device)), seconds=last["seconds"], steps=run.step)
    (out / label / "metrics.json").write_text(json.dumps(measured | about, indent=1) + "\n")
    print(f"{label}: {measured['psnr']:.2f} dB, {last['seconds']:.0f} s", flush=True)


def from_codes(model: Any, splits: Any) -> dict[str, float]:
    "The KL of the codes' whole covariance, and the patch distance of faces by two samplers."
    import torch

    from vae_tutorial.images.batches import load_batch
    from vae_tutorial.measurements import _codes
    from vae_tutorial.metrics import patch_swd
    from vae_tutorial.mixture import population_kl
    from vae_tutorial.sampling import fit_samplers, generate

    mean, logvar = _codes(model, (load_batch(splits[0], i) for i in torch.arange(2048).split(64)))
    model.samplers = fit_samplers(mean, logvar, components=1)
    real = load_batch(splits[1], torch.arange(256))
    found = {
        f"patch_swd_{name}": patch_swd(real, generate(model, 256, name))["mean"]
        for name in ("prior", "gaussian")
    }
    return found | dict(kl_full=population_kl(mean.double(), logvar.double(), "full").item())


def numbers(out: Path, label: str) -> dict:
    "The measurements of a run alone, without machine and time."
    kept = json.loads((out / label / "metrics.json").read_text())
    return {name: value for name, value in kept.items() if name not in ("machine", "seconds")}


def course(out: Path, label: str) -> dict:
    "The players' losses halfway through a run and at its end."
    history = json.loads((out / label / "history.json").read_text())
    players = [record for record in history if "train/adversarial" in record]
    half, end = players[len(players) // 2], players[-1]
    return {
        f"{name}_{when}": round(record.get(f"train/{name}", 0.0), 1)
        for when, record in (("half", half), ("end", end))
        for name in ("adversarial", "discriminator")
    }


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
    from vae_tutorial.checkpoint import load
    from vae_tutorial.slim import save_weights

    (target / "checkpoint.safetensors").unlink(missing_ok=True)
    save_weights(load(source), target)


def picture(out: Path, labels: dict[str, str], path: Path, n: int = 10) -> None:
    "Held-out photographs above their reconstructions, a row for each run: `labels` by name."
    import torch

    from vae_tutorial.checkpoint import load
    from vae_tutorial.figures import reconstructions
    from vae_tutorial.images.batches import load_batch
    from vae_tutorial.loop import _split_data

    runs = {name: load(out / label) for name, label in labels.items()}
    held_out = load_batch(_split_data(None, [*runs.values()][-1].config)[1], torch.arange(n))
    reconstructions({name: run.model for name, run in runs.items()}, held_out, path=path)


def gather(names: list[str], out: Path) -> None:
    "Write the files that the lessons read."
    if "faces" in names:
        for method in METHODS:
            target = ROOT / "nbs/faces" / method
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            shutil.copy(out / f"seed0-{method}/history.json", target / "history.json")
            slim(out / f"seed0-{method}", target)
    if "critic" in names:
        write("critic.json", [about(out, w) | numbers(out, w) for w in ("critic-old", "critic-new")])
    for name, parts, seeds, file in (
        ("ablation", PARTS, 3, "ablation.json"),
        ("recipe", RECIPES, 2, "recipe.json"),
    ):
        if name in names:
            rows = []
            for part in parts:
                labels = {seed: f"{name} {part} {seed}" for seed in range(seeds)}
                runs = {s: label for s, label in labels.items() if (out / label / "metrics.json").exists()}
                found = [
                    dict(seed=s, **numbers(out, label), **course(out, label)) for s, label in runs.items()
                ]
                rows.append(dict(name=part, runs=found))
            write(file, dict(about(out, labels[0]), rows=rows))
    if "ending" in names:
        rows = [
            dict(name=name, **numbers(out, f"ending {name}"), **course(out, f"ending {name}"))
            for name in ENDINGS
        ]
        write("ending.json", dict(about(out, "ending as it was"), rows=rows))
    if "photographs" in names:
        measured = {name: numbers(out, f"photographs {name}") for name in CORNERS}
        write("photographs.json", about(out, "photographs proposed") | measured)
        short = ("standard", "heavier", "critic", "no critic", "proposed")
        labels = {label: f"photographs {name}" for label, name in zip(short, CORNERS)}
        picture(out, labels, IMAGES / "photographs.png")
    if "own" in names:
        found = about(out, "own pictures") | numbers(out, "own pictures")
        found["seconds"] = json.loads((out / "own pictures/metrics.json").read_text())["seconds"]
        history = json.loads((out / "own pictures/history.json").read_text())
        found["history"] = [r for r in history if r["step"] % 500 == 0]
        write("own_pictures.json", found)
        picture(out, {"reconstruction": "own pictures"}, IMAGES / "own_pictures.png")


def main() -> None:
    choices = ("faces", "critic", "ablation", "recipe", "ending", "photographs", "own")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(choices))
    parser.add_argument("--folder", help="of photographs, for `photographs` and `own`")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side (default: 1)")
    parser.add_argument("--runs", type=Path, help="keep the runs in this folder (default: a temporary one)")
    parser.add_argument("--steps", type=int, help="fewer steps, to try this script; nothing is stored then")
    parser.add_argument("--gather", action="store_true", help="write from the runs that are there alone")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # label and changes: a run's own process
    given = parser.parse_args()
    if given.one:
        return train_one(given.one[0], json.loads(given.one[1]), given.device, given.runs)
    if not given.names or set(given.names) - set(choices):
        parser.error(f"name at least one of {', '.join(choices)}")
    if {"photographs", "own"} & set(given.names) and not given.folder:
        parser.error("photographs and own need --folder")
    with tempfile.TemporaryDirectory() as temporary:
        out = (given.runs or Path(temporary)).resolve()
        if given.gather:
            return gather(given.names, out)
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
