"""The checks that need a CUDA device, for a machine that has one: `python tools/cuda_checks.py`.

Each prints a line; the last line counts. On a machine without CUDA it says so and exits with 1;
`--device cpu` tries the script itself.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from vae_tutorial.checkpoint import load
from vae_tutorial.config import TrainConfig
from vae_tutorial.device import choose_device, choose_precision, describe_machine, _memory_format
from vae_tutorial.evaluation import evaluate
from vae_tutorial.faces.dataset import SyntheticFaces
from vae_tutorial.fuse import fuse_
from vae_tutorial.images.batches import load_batch, random_split
from vae_tutorial.loop import train
from vae_tutorial.measurements import measure
from vae_tutorial.randomness import _kept_generators

faces = SyntheticFaces(96, image_size=32, cache=False)
images = [faces[i][0] for i in range(len(faces))]
tiny = TrainConfig(
    image_size=32, blocks=2, width=16, latent_dim=16, batch_size=8, steps=12, log_every=4, precision="float32"
)


def choices(device: str) -> str:
    "auto takes CUDA, and bf16 where the hardware has it"
    chosen = choose_device("auto" if device.startswith("cuda") else device)
    assert chosen.type == device.partition(":")[0], chosen
    dtype = choose_precision("auto", chosen)
    if chosen.type == "cuda":
        assert (dtype == torch.bfloat16) == (torch.cuda.get_device_capability() >= (8, 0))
    return f"{describe_machine(chosen)}"


def both_methods(device: str) -> str:
    "both methods train, in float32 and in bf16, and agree with the CPU"
    said = []
    for method in ("standard", "proposed"):
        config = replace(tiny, method=method, flip=False, device=device)
        there, here = train(config, images), train(replace(config, device="cpu"), images)
        first = [run.history[0]["train/reconstruction"] for run in (there, here)]
        assert abs(first[0] / first[1] - 1) < 0.1, first  # other noise, the same weights and images
        half = train(replace(config, precision="bf16"), images).history[-1]
        full = there.history[-1]
        assert abs(half["train/reconstruction"] / full["train/reconstruction"] - 1) < 0.05
        assert next(there.model.parameters()).device.type == device.partition(":")[0]
        said.append(f"{method} {full['train/loss']:.0f}, bf16 {half['train/loss']:.0f}")
    return "; ".join(said)


def same_networks(device: str) -> str:
    "the networks compute what they compute on the CPU, fused or not, in float64"
    torch.manual_seed(0)
    plain = tiny.make_model().double()
    x = torch.stack(images[:4]).double()
    expected = plain.decode(plain.encode(x)[0])
    worst = 0.0
    for model in (copy.deepcopy(plain), fuse_(copy.deepcopy(plain))):
        model = model.to(device, memory_format=_memory_format(torch.device(device)))
        got = model.decode(model.encode(x.to(device))[0]).cpu()
        worst = max(worst, (got - expected).abs().max().item())
    assert worst < 1e-9, worst
    return f"largest difference {worst:.1e}"


def generators(device: str) -> str:
    "torch's generators are left as they were"
    where = torch.device(device)
    torch.manual_seed(5)
    before = torch.rand(2, device=where), torch.rand(2)
    torch.manual_seed(5)
    with _kept_generators(where):
        torch.manual_seed(99)
        torch.rand(7, device=where)
    assert all(torch.equal(a, b) for a, b in zip(before, (torch.rand(2, device=where), torch.rand(2))))
    torch.manual_seed(5)
    train(replace(tiny, device=device), images)
    assert all(torch.equal(a, b) for a, b in zip(before, (torch.rand(2, device=where), torch.rand(2))))
    return "as before"


def resume(device: str) -> str:
    "a run that stops and goes on ends where the unbroken one does"
    torch.backends.cudnn.deterministic = True
    with tempfile.TemporaryDirectory() as folder:
        config = replace(tiny, device=device, out=f"{folder}/a")
        whole = train(config, images)
        part = train(replace(config, steps=6, out=f"{folder}/b"), images)
        rest = train(replace(config, out=f"{folder}/b"), images, resume=f"{folder}/b")
        assert (part.step, rest.step) == (6, 12)
        differences = [
            (a - b).abs().max().item()
            for a, b in zip(whole.model.state_dict().values(), rest.model.state_dict().values())
        ]
        again = load(f"{folder}/b", device=device)
        x = torch.stack(images[:4]).to(device)
        torch.testing.assert_close(again.model.encode(x)[0], rest.model.encode(x)[0], atol=1e-4, rtol=1e-4)
    torch.backends.cudnn.deterministic = False
    assert max(differences) < 1e-5, max(differences)
    return "bitwise equal" if max(differences) == 0 else f"largest difference {max(differences):.1e}"


def held_out(device: str) -> str:
    "evaluate and measure work, and leave the generators alone"
    _, valid = random_split(images, 0.3, 0)
    run = train(replace(tiny, device=device), images)
    first, second = (evaluate(run.model, run.discriminator, valid, run.config) for _ in range(2))
    assert all(abs(first[name] - second[name]) <= 1e-4 * abs(first[name]) for name in first)
    measured = measure(run, load_batch(valid, range(len(valid))))
    assert 5 < measured["psnr"] < 40
    return f"psnr {measured['psnr']:.1f} dB"


def compiled(device: str) -> str:
    "compiled networks train"
    began = time.perf_counter()
    eager = train(replace(tiny, device=device, average=0.0), images).history[0]
    run = train(replace(tiny, device=device, average=0.0, compile=True), images).history[0]
    assert abs(run["train/reconstruction"] / eager["train/reconstruction"] - 1) < 0.1
    return f"{time.perf_counter() - began:.0f} s"


def quick_resume_on_cpu(device: str) -> str:
    "a run of the device goes on on the CPU"
    with tempfile.TemporaryDirectory() as folder:
        train(replace(tiny, device=device, steps=6, out=folder), images)
        rest = train(replace(tiny, device="cpu", out=folder), images, resume=Path(folder))
        assert rest.step == 12 and next(rest.model.parameters()).device.type == "cpu"
    return "step 12"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    if device.startswith("cuda") and not torch.cuda.is_available():
        print("there is no CUDA device here")
        return 1
    failed = 0
    checks: list[Callable[[str], str]] = [
        choices, same_networks, generators, both_methods, resume, held_out, quick_resume_on_cpu, compiled
    ]  # fmt: skip
    for check in checks:
        try:
            print(f"{check.__doc__}: {check(device)}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED: {check.__doc__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
