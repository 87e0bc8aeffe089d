"""Make the trained models that come with the library, from nothing:

    python tools/trained.py train faces-64    about three hours on one CPU core; goes on if it was stopped
    python tools/trained.py pack faces-64     vae_tutorial/models/faces-64: weights, card, and what is fitted
    python tools/trained.py directions faces-64   the directions of a packed model alone, and their table
    python tools/trained.py course faces-64   nbs/experiments/course.json: its numbers over the run; the
                                              other model's: course_standard.json
    python tools/trained.py pictures          nbs/images: what README and the lessons show of both

A run keeps, beside its checkpoint, its averaged model in half precision at some steps (snapshots/). Data are
the embedded faces alone: weights trained on photographs of people are not shipped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
MODELS, IMAGES = ROOT / "vae_tutorial/models", ROOT / "nbs/images"
CHANGES: dict[str, dict] = {  # from the preset `faces`
    "faces-64": {},
    "faces-64-standard": dict(method="standard", reconstruction_weight=15000.0),
}
EARLY, EVERY = (100, 500, 1000, 2000), 2500  # steps whose model is kept
FIT, JUDGE = 4096, 512  # training faces that samplers are fitted to, held-out faces that numbers are of
MOVED = 256  # held-out faces that directions are judged on


def train_here(name: str, folder: Path) -> None:
    from vae_tutorial.config import PRESETS, TrainConfig
    from vae_tutorial.loop import train

    torch.set_num_threads(1)
    settings = PRESETS["faces"] | dict(save_every=100, valid_every=2500) | CHANGES[name]
    there = (folder / "checkpoint.safetensors").exists()
    train(TrainConfig(**settings, out=str(folder)), resume=folder if there else None, progress=True)


def keep(folder: Path) -> None:
    "Copy the model of the checkpoint in `folder`, in half precision, if its step is one to be kept."
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        about = json.loads(file.metadata()["about"])
        step, target = about["step"], folder / f"snapshots/{about['step']}.safetensors"
        if target.exists() or not (step in EARLY or step % EVERY == 0):
            return
        tensors = {n: file.get_tensor(n).to(torch.float16) for n in file.keys() if n.startswith("model.")}
    target.parent.mkdir(exist_ok=True)
    save_file(tensors, target, metadata={"about": json.dumps(about)})


def train(name: str, folder: Path) -> None:
    "Train in a process of its own, and keep what its checkpoints hold on the way."
    command = [sys.executable, __file__, "train", name, "--runs", str(folder.parent), "--here"]
    process = subprocess.Popen(command, env=dict(os.environ, OMP_NUM_THREADS="1"))
    file, seen = folder / "checkpoint.safetensors", 0.0
    running = True
    while running:
        running = process.poll() is None
        if file.exists() and file.stat().st_mtime != seen:
            seen = file.stat().st_mtime
            keep(folder)
        time.sleep(1)
    sys.exit(process.returncode)


def codes(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    from vae_tutorial.measurements import _codes

    return _codes(model, images.split(64))


@torch.no_grad()
def decoded(model: Any, z: Tensor) -> Tensor:
    return torch.cat([model.decode(part) for part in z.split(64)])


def data(config: Any) -> tuple[Tensor, Tensor, Any, Any]:
    "Training faces to fit to, held-out faces twice as many as are judged, and the factors of both."
    from vae_tutorial.faces.factors import FaceFactors
    from vae_tutorial.images.batches import load_batch
    from vae_tutorial.loop import _split_data

    splits: Any = _split_data(None, config)
    held_out = load_batch(splits.valid, torch.arange(2 * JUDGE))
    factors = splits.valid.dataset.faces.factors(splits.valid.indices[:JUDGE])
    for_fit = splits.train.dataset.faces.factors(splits.train.indices[:FIT])
    assert isinstance(factors, FaceFactors)
    return load_batch(splits.train, torch.arange(FIT)), held_out, for_fit, factors


def judge(run: Any, held_out: Tensor, factors: Any) -> dict[str, Any]:
    "Every number of a card, by what is judged: reconstructions, each sampler, and data for comparison."
    from vae_tutorial.measurements import measure
    from vae_tutorial.metrics import patch_swd, specks
    from vae_tutorial.mixture import population_kl
    from vae_tutorial.reader import frechet_distance, load_reader, surviving_factors
    from vae_tutorial.sampling import generate

    reader, (real, other) = load_reader(), held_out.split(JUDGE)
    seen = reader.features(real)

    def plausible(images: Tensor) -> dict[str, Any]:
        found = frechet_distance(reader.features(images), seen, resamples=200)
        found = dict(patch_swd=patch_swd(real, images)["mean"], frechet=found)
        return found | specks(images, real)

    mean, logvar = codes(run.model, real)
    x_hat = decoded(run.model, mean)
    torch.manual_seed(0)  # of the Monte Carlo estimates
    measured = measure(run, real)
    kl_full = population_kl(mean.double(), logvar.double(), "full").item()
    survive = surviving_factors(reader, real, x_hat, factors)
    card: dict[str, Any] = dict(
        reconstructions=measured | plausible(x_hat) | dict(kl_full=kl_full), survive=survive
    )
    card["data"] = plausible(other)
    for sampler in ("prior", "moments", "gaussian", "mixture", "posterior"):
        drawn = [generate(run.model, JUDGE, sampler, seed) for seed in range(3)]
        by_seed = [patch_swd(real, images)["mean"] for images in drawn]
        card[sampler] = plausible(drawn[0]) | dict(patch_swd_by_seed=by_seed)
    return card


def rounded(value: Any) -> Any:
    "Numbers to four digits."
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def as_page(name: str, card: dict[str, Any]) -> str:
    "The card as a page of Markdown."
    settings, found = card["settings"], card["numbers"]
    way = "as proposed" if card["method"] == "proposed" else "the standard way"
    recon, survive = found["reconstructions"], found["survive"]
    lines = [
        f"# {name}",
        "",
        f"A VAE of {settings['image_size']} x {settings['image_size']} color faces with "
        f"{settings['latent_dim']} latents, trained {way}.",
        "",
        f'`vae_tutorial.load("{name}")` opens it; `tools/trained.py` made it.',
        "",
        f"- Data: the embedded faces, {settings['data_size']:,} drawn with seed {settings['seed']}, a fifth "
        "of them held out. They are drawings: no photograph of a person was used.",
        f"- Training: {card['steps']:,} of {settings['steps']:,} steps of {settings['batch_size']} images, "
        f"one thread of {card['machine']['processor']}, bfloat16 convolutions; one run, "
        f"seed {settings['seed']}.",
        f"- Settings: the preset `faces`{card['changes']}.",
        f"- Weights: {card['parameters']:,} numbers of the averaged model, stored in half precision, and "
        f"samplers, fitted to the codes of {FIT} training faces.",
        "",
        f"Measured on {JUDGE} held-out faces, from posterior means, with the weights as they are stored:",
        "",
        "| reconstructions | |",
        "|---|---|",
        f"| PSNR | {recon['psnr']:.2f} dB |",
        f"| SSIM | {recon['ssim']:.3f} |",
        f"| energy above 0.25 cycles a pixel, share of the data's | {recon['high_frequency']:.2f} |",
        f"| posterior sigma, mean | {recon['sigma']:.3f} |",
        f"| average KL; KL of the moments; of the whole covariance | {recon['kl_average']:.0f}; "
        f"{recon['kl_moments']:.1f}; {recon['kl_full']:.0f} nats |",
        f"| factors that survive, mean (glasses, hair style, mouth) | {survive['mean']:.3f} "
        f"({survive['glasses']:.3f}, {survive['hair_style']:.3f}, {survive['mouth']:.3f}) |",
        "",
        "| faces | patch distance | Fréchet distance (95 %) | specks | lattice |",
        "|---|---|---|---|---|",
    ]
    for row in ("data", "reconstructions", "posterior", "mixture", "gaussian", "moments", "prior"):
        one = found[row]
        span = f"{one['frechet']['value']:.2f} ({one['frechet']['low']:.2f} to {one['frechet']['high']:.2f})"
        lines.append(
            f"| {row} | {one['patch_swd']:.1f} | {span} | {one['specks']:.2f} | {one['lattice']:.2f} |"
        )
    lines += [
        "",
        '"data" are other held-out faces: the least that a distance can be. Fréchet distances are in the '
        "features of the factor reader; specks and lattice are ratios to the data's.",
        "",
        *moves(card["directions"]),
        "",
        "What it cannot do: photographs, other sizes, faces that the renderer does not draw. What texture "
        "there is was invented, not recovered: strands of hair lie elsewhere than in the image.",
    ]
    return "\n".join(lines) + "\n"


def moves(effects: dict[str, dict[str, float]]) -> list[str]:
    "The directions' effects as a table, a line each."
    lines = [
        f"Directions, moved by 1: what changes in {MOVED} held-out faces, as the factor reader sees it. "
        "Numbers are in standard deviations; of glasses and long hair, it is the share of faces without that "
        "get them, less the share of those with that lose them.",
        "",
        "| direction | its own | largest other |",
        "|---|---|---|",
    ]
    for name, effect in effects.items():
        foreign = {key: value for key, value in effect.items() if key != name}
        largest = max(foreign, key=lambda key: abs(foreign[key]))
        lines.append(f"| {name} | {effect[name]:.2f} | {largest} {foreign[largest]:+.2f} |")
    return lines


def add_directions(target: Path, images: Tensor, factors: Any, held_out: Tensor) -> dict[str, Any]:
    "Fit directions to `images` and their `factors`, put them into the checkpoint, and return their effects."
    from vae_tutorial.checkpoint import load
    from vae_tutorial.directions import direction_effects, fit_directions
    from vae_tutorial.stored_samplers import save_directions

    save_directions(target, fit_directions(codes(load(target).model, images)[0], factors))
    return rounded(direction_effects(load(target).model, held_out[:MOVED]))


def directions(name: str) -> None:
    "Give a model that is packed already its directions, and its card their effects."
    from vae_tutorial.checkpoint import load

    torch.set_num_threads(1)
    target = MODELS / name
    for_fit, held_out, factors, _ = data(load(target).config)
    effects = add_directions(target, for_fit, factors, held_out)
    card = json.loads((target / "card.json").read_text()) | dict(directions=effects)
    (target / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (target / "card.md").write_text(as_page(name, card))
    print("\n".join(moves(effects)))


def write(folder: Path, tensors: dict[str, Tensor], about: dict) -> None:
    from safetensors.torch import save

    content = save(tensors, {"about": json.dumps(about)})
    (folder / "checkpoint.safetensors").write_bytes(content)


def pack(name: str, folder: Path) -> None:
    "Write `vae_tutorial/models/NAME` from the run in `folder`."
    from safetensors import safe_open

    from vae_tutorial.checkpoint import load
    from vae_tutorial.device import choose_device, describe_machine
    from vae_tutorial.memory import _keep_memory
    from vae_tutorial.sampling import fit_samplers
    from vae_tutorial.stored_samplers import save_samplers

    torch.set_num_threads(1)
    _keep_memory()
    target = MODELS / name
    target.mkdir(parents=True, exist_ok=True)
    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        kept = [n for n in file.keys() if n.startswith(("model.", "discriminator."))]
        tensors = {n: file.get_tensor(n).half().float() for n in kept}
        about = json.loads(file.metadata()["about"])
    about["config"] |= dict(device="auto", out=None, save_every=None)
    write(target, tensors, about)
    history = json.loads((folder / "history.json").read_text())
    thin = [record for record in history if record["step"] % 250 == 0]
    records = ",\n".join(json.dumps(rounded(record)) for record in thin)
    (target / "history.json").write_text(f"[\n{records}\n]\n")

    run = load(target)
    for_fit, held_out, fit_factors, factors = data(run.config)
    save_samplers(target, fit_samplers(*codes(run.model, for_fit)))
    with safe_open(target / "checkpoint.safetensors", "pt") as file:
        tensors = {n: file.get_tensor(n) for n in file.keys()}
    halves = {n: t if n.startswith("sampler.") else t.half() for n, t in tensors.items()}
    write(target, halves, about | dict(half=True))
    effects = add_directions(target, for_fit, fit_factors, held_out)
    run = load(target)
    numbers = judge(run, held_out, factors)
    changes = ", ".join(f"`{key}={value!r}`" for key, value in CHANGES[name].items())
    card = dict(
        name=name,
        method=run.config.method,
        steps=run.step,
        hours=about["seconds"] / 3600,
        machine=describe_machine(choose_device("cpu")),
        changes=f", with {changes}" if changes else "",
        parameters=sum(p.numel() for p in run.model.parameters()),
        settings={key: value for key, value in about["config"].items() if key not in ("out", "device")},
        numbers=rounded(numbers),
        directions=effects,
    )
    (target / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (target / "card.md").write_text(as_page(name, card))
    print((target / "card.md").read_text())


def enlarged(rows: list[Tensor], times: int, gap: int = 6) -> Any:
    "A picture of rows of images, each pixel `times` times as large, as an array of bytes."
    from vae_tutorial.figures import _tile

    sheet = torch.cat(rows)
    large = sheet.repeat_interleave(times, 2).repeat_interleave(times, 3)
    return (_tile(large, len(rows[0]), gap) * 255).round().byte().numpy()


def snapshots(folder: Path, steps: tuple[int, ...]) -> Iterator[Any]:
    "The models that a run kept at `steps`."
    from safetensors.torch import load_file

    from vae_tutorial.config import PRESETS, TrainConfig
    from vae_tutorial.fuse import fuse_

    for step in steps:
        model = fuse_(TrainConfig(**PRESETS["faces"]).make_model()).eval()
        stored = load_file(folder / f"snapshots/{step}.safetensors")
        model.load_state_dict({n.removeprefix("model."): t.float() for n, t in stored.items()})
        yield model


def course(name: str, folder: Path) -> None:
    "Store what the kept models of a run measure, with the losses of that time; what is stored stays."
    from vae_tutorial.config import PRESETS, TrainConfig
    from vae_tutorial.metrics import high_frequency_energy, patch_swd, psnr
    from vae_tutorial.sampling import fit_samplers, generate

    torch.set_num_threads(1)
    for_fit, held_out, _, _ = data(TrainConfig(**(PRESETS["faces"] | CHANGES[name])))
    real, which = held_out[:JUDGE], name.removeprefix("faces-64").replace("-", "_")
    file = ROOT / f"nbs/experiments/course{which}.json"
    rows = json.loads(file.read_text()) if file.exists() else []  # delete it to measure all anew
    steps = sorted(int(file.stem) for file in (folder / "snapshots").glob("*.safetensors"))
    steps = [step for step in steps if step in EARLY or step % (2 * EVERY) == 0]
    steps = [step for step in steps if step not in {row["step"] for row in rows}]
    history = {record["step"]: record for record in json.loads((folder / "history.json").read_text())}
    losses = ("train/reconstruction", "train/kl", "train/adversarial", "train/discriminator", "latent/sigma")
    for step, model in zip(steps, snapshots(folder, tuple(steps))):
        x_hat = decoded(model, codes(model, real)[0])
        model.samplers = fit_samplers(*codes(model, for_fit[: FIT // 2]), components=1)
        row = {loss: history[step][loss] for loss in losses if loss in history.get(step, {})}
        row |= dict(step=step, psnr=psnr(real, x_hat).mean().item(), patch_swd=patch_swd(real, x_hat)["mean"])
        row["high_frequency"] = (
            high_frequency_energy(x_hat).mean() / high_frequency_energy(real).mean()
        ).item()
        for sampler in ("gaussian", "prior"):
            row[f"patch_swd_{sampler}"] = patch_swd(real, generate(model, JUDGE, sampler))["mean"]
        rows.append(rounded(row))
        print(rows[-1], flush=True)
        rows.sort(key=lambda row: row["step"])
        file.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def pictures(runs: Path) -> None:
    "What README and the lessons show of the shipped models and of the proposed one's training."
    from PIL import Image

    from vae_tutorial.checkpoint import load
    from vae_tutorial.images.batches import load_batch
    from vae_tutorial.loop import _split_data
    from vae_tutorial.sampling import generate

    def save(name: str, rows: list[Tensor], times: int) -> None:
        image = Image.fromarray(enlarged(rows, times))
        image.save(IMAGES / name, optimize=True)
        print(f"nbs/images/{name}: {image.size}, {(IMAGES / name).stat().st_size / 1e3:.0f} kB")

    proposed, standard = load("faces-64").model, load("faces-64-standard").model
    config = load("faces-64").config
    splits: Any = _split_data(None, config)
    faces = load_batch(splits.valid, torch.arange(12))
    save(
        "faces.png",
        [x[:5] for x in (faces, *(decoded(m, codes(m, faces)[0]) for m in (standard, proposed)))],
        4,
    )
    last = max(int(file.stem) for file in (runs / "faces-64/snapshots").glob("*.safetensors"))
    kept = (100, 500, 2500, 10_000, 25_000, last)
    rows = [decoded(m, codes(m, faces)[0])[:6] for m in snapshots(runs / "faces-64", kept)]
    save("filmstrip.png", [*rows, faces[:6]], 2)
    every = load_batch(splits.train, torch.arange(len(splits.train))).flatten(1)
    new = generate(proposed, 8, "gaussian", seed=1).clamp(-1, 1)
    nearest = torch.cdist(new.flatten(1), every).argmin(1)
    save("neighbors.png", [new, every[nearest].reshape(new.shape)], 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "pack", "directions", "course", "pictures"))
    parser.add_argument("name", nargs="?", choices=list(CHANGES))
    parser.add_argument(
        "--runs", type=Path, default=ROOT / "results", help="where runs are (default: results)"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what != "pictures" and given.name is None:
        parser.error(f"name one of {', '.join(CHANGES)}")
    if given.what == "pictures":
        pictures(given.runs)
    elif given.what == "directions":
        directions(given.name)
    elif given.what in ("pack", "course"):
        dict(pack=pack, course=course)[given.what](given.name, given.runs / given.name)
    elif given.here:
        train_here(given.name, given.runs / given.name)
    else:
        train(given.name, given.runs / given.name)


if __name__ == "__main__":
    main()
