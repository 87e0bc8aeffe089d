"""Make vae_tutorial/weights/reader.safetensors from nothing, and say how well they read.

    W=vae_tutorial/weights/reader.safetensors
    python tools/train_reader.py
    python tools/train_reader.py --start $W --steps 2000 --lr 2e-3 --category_weight 3

The shipped weights are the result of these: 13 and 8 epochs of 30,000 faces, about 20 minutes on one free
core. The second starts from what the first wrote: the categories need longest.

The faces have seed 1; the data sets of the lessons and of the stored runs have others, so that this reader
has seen none of their faces. The last 2,000 are held out. All 41 factors are trained; those that cannot
be read off a held-out face (a share of explained variance below 0.7) lose their outputs in the end.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vae_tutorial.faces.dataset import SyntheticFaces
from vae_tutorial.faces.factors import CATEGORICAL, CONTINUOUS, FaceFactors
from vae_tutorial.images.batches import to_float
from vae_tutorial.reader import _CIRCLES, FactorReader, _outputs, _value

ROOT = Path(__file__).resolve().parent.parent
HELD_OUT = 2000
READABLE = 0.7  # a share of explained variance, or of (accuracy - commonest) / (1 - commonest)


def blurred(x: Tensor, sigma: float) -> Tensor:
    "Gaussian blur of `sigma` pixels."
    reach = max(1, math.ceil(3 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).repeat(3, 1, 1, 1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), taps, groups=3)
    return F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), taps.transpose(2, 3), groups=3)


def worn(x: Tensor, g: torch.Generator) -> Tensor:
    """Faces as a decoder may give them back: smaller, blurred, noisy, a little off in contrast and color.

    No flips: a mirrored face is not what its mirrored factors draw, for light and parting have sides.
    """
    kind, strength = torch.rand(2, generator=g).tolist()
    if kind < 0.3:
        side = 32 + int(28 * strength)
        small = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        x = F.interpolate(small, x.shape[2:], mode="bilinear")
    elif kind < 0.6:
        x = blurred(x, 0.3 + 1.0 * strength)
    noise, contrast, offset = torch.rand(3, len(x), 1, 1, 1, generator=g)
    x = x * (0.95 + 0.1 * contrast) + 0.1 * (offset - 0.5)
    return x + 0.1 * noise**2 * torch.randn(x.shape, generator=g)


def targets(factors: FaceFactors) -> dict[str, Tensor]:
    "What the network should say: kinds as they are, values from -1 to 1, circles as cosine and sine."
    wanted = dict(factors.items())
    for name, (low, high) in CONTINUOUS.items():
        value = 2 * (wanted[name] - low) / (high - low) - 1
        angle = 2 * math.pi * wanted[name]
        around = torch.stack([angle.cos(), angle.sin()], dim=1)
        wanted[name] = around if name in _CIRCLES else value[:, None]
    return wanted


def loss_of(
    said: dict[str, Tensor], wanted: dict[str, Tensor], variance: dict[str, Tensor], category_weight: float
) -> Tensor:
    "Sum over factors, each about 1 for a network that sees nothing, times its weight if a category."
    total = torch.zeros(())
    for name, output in said.items():
        output = output.float()
        if name in CATEGORICAL:
            entropy = math.log(len(CATEGORICAL[name]))
            total = total + category_weight / entropy * F.cross_entropy(output, wanted[name])
        else:
            total = total + (output - wanted[name]).square().mean() / variance[name]
    return total


def quality(reader: FactorReader, images: Tensor, factors: FaceFactors) -> dict[str, dict[str, float]]:
    """How well each factor is read, by name: `accuracy` of kinds, `r2` of values, and `score`.

    `r2`: the share of explained variance, for a circle that of its cosine and sine. `score`: 0 for a
    constant answer and 1 for the right one.
    """
    reader.eval()
    with torch.no_grad():
        parts = [reader(to_float(part)) for part in images.split(250)]
    said = {name: torch.cat([part[name] for part in parts]) for name in reader.names}
    wanted, table = targets(factors), {}
    for name, output in said.items():
        if name in CATEGORICAL:
            right = (_value(name, output) == wanted[name]).double().mean().item()
            commonest = torch.bincount(wanted[name]).max().item() / len(output)
            table[name] = dict(accuracy=right, score=(right - commonest) / (1 - commonest))
        else:
            error = (output - wanted[name]).square().mean()
            r2 = 1 - (error / wanted[name].var(0).mean()).item()
            table[name] = dict(r2=r2, score=r2)
    return table


def train(
    reader: FactorReader,
    images: Tensor,
    factors: FaceFactors,
    steps: int,
    batch: int,
    lr: float,
    category_weight: float,
    g: torch.Generator,
) -> None:
    reader.train().to(memory_format=torch.channels_last)
    decayed = [p for p in reader.parameters() if p.ndim > 1]
    others = [p for p in reader.parameters() if p.ndim <= 1]
    groups = [dict(params=decayed, weight_decay=0.05), dict(params=others, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    wanted = targets(factors)
    variance = {name: value.float().var(0).mean() for name, value in wanted.items()}
    order, began, mean = torch.empty(0, dtype=torch.int64), time.time(), 0.0
    for step in range(1, steps + 1):
        if len(order) < batch:
            order = torch.randperm(len(images), generator=g)
        chosen, order = order[:batch], order[batch:]
        x = worn(to_float(images[chosen]), g).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            said = reader(x)
        now = {name: value[chosen] for name, value in wanted.items()}
        loss = loss_of(said, now, variance, category_weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean += loss.item() / 100
        if step % 100 == 0:
            print(f"step {step:5}  loss {mean:6.3f}  {time.time() - began:5.0f} s", flush=True)
            mean = 0.0
    reader.to(memory_format=torch.contiguous_format)


def cut(reader: FactorReader, names: list[str]) -> FactorReader:
    "The same reader with the outputs of `names` alone, its weights rounded to half precision."
    rows = torch.arange(len(reader.head.bias)).split(list(map(_outputs, reader.names)))
    kept = torch.cat([part for name, part in zip(reader.names, rows) if name in names])
    state = {k: v for k, v in reader.state_dict().items() if v.is_floating_point()}
    state["head.weight"], state["head.bias"] = state["head.weight"][kept], state["head.bias"][kept]
    smaller = FactorReader([name for name in reader.names if name in names])
    smaller.load_state_dict({k: v.half().float() for k, v in state.items()}, strict=False)
    return smaller.eval()


def opened(path: Path) -> tuple[FactorReader, dict[str, str]]:
    "A reader that this script wrote, and its card."
    with safe_open(path, "pt") as file:
        card = file.metadata()
        weights = {name: file.get_tensor(name).float() for name in file.keys()}
    reader = FactorReader(card["names"].split())
    reader.load_state_dict(reader.state_dict() | weights)
    return reader, card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--faces", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--category_weight", type=float, default=1.0)
    parser.add_argument("--start", type=Path, help="weights to start from, not from nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "vae_tutorial" / "weights" / "reader.safetensors")
    args = parser.parse_args()

    data = SyntheticFaces(args.faces + HELD_OUT, 64, seed=args.seed)
    images, factors = data.images(), data.factors(range(len(data)))
    began = time.time()
    seen = slice(0, args.faces)
    torch.manual_seed(args.seed)
    g = torch.Generator().manual_seed(args.seed + (args.start is not None))
    reader, before = (FactorReader(), {}) if args.start is None else opened(args.start)
    weight = args.category_weight
    train(reader, images[seen], factors[seen], args.steps, args.batch, args.lr, weight, g)
    seconds = time.time() - began + float(before.get("seconds", 0))

    new = slice(args.faces, None)
    everything = quality(reader, images[new], factors[new])
    names = [name for name, found in everything.items() if found["score"] >= READABLE]
    for name in everything:
        if name not in names:
            print(f"cannot be read: {name:17} {everything[name]['score']:.3f}")
    reader = cut(reader, names)
    found = quality(reader, images[new], factors[new])
    measured = {f"{name}.{k}": f"{v:.4f}" for name in names for k, v in found[name].items() if k != "score"}
    print("\n".join(f"{k:28}{v}" for k, v in measured.items()))
    training = f"{args.steps} steps of {args.batch}, AdamW, one cycle to {args.lr:g}"
    training += f", categories weighted {weight:g}, bfloat16 autocast"
    if before:
        training = f"{before['training']}; then {training}"
    card = dict(
        what="vae_tutorial.reader.FactorReader, made by tools/train_reader.py",
        names=" ".join(names),
        data=f"SyntheticFaces({len(data)}, 64, seed={args.seed}): {args.faces} seen, {HELD_OUT} held out",
        fingerprint=str(data.fingerprint["names"]),
        training=training,
        seconds=f"{seconds:.0f}",
        machine=f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() for k, v in reader.state_dict().items() if v.is_floating_point()}
    save_file(state, args.out, metadata=card | measured)
    print(f"{args.out.name}: {args.out.stat().st_size / 1e6:.2f} MB, trained in {seconds:.0f} s")


if __name__ == "__main__":
    main()
