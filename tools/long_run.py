"""One long training with snapshots of its model, on one thread; it goes on where it was interrupted.

    python tools/long_run.py FOLDER [NAME=VALUE ...]

Settings: the preset `faces`, changed by what is given (JSON values). FOLDER receives the run's checkpoint, and
FOLDER/snapshots/STEP.safetensors, the averaged model in half precision, at each checkpoint kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

EARLY = (500, 1000, 2000)
EVERY = 2500


def run(folder: Path, changes: dict) -> None:
    import torch

    from vae_tutorial.config import PRESETS, TrainConfig
    from vae_tutorial.loop import train

    torch.set_num_threads(1)
    settings = PRESETS["faces"] | dict(save_every=500, valid_every=2500) | changes
    there = (folder / "checkpoint.safetensors").exists()
    train(TrainConfig(**settings, out=str(folder)), resume=folder if there else None)


def keep(folder: Path) -> None:
    "Copy the model of the checkpoint in `folder`, in half precision, if its step is one to be kept."
    import torch
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


def main() -> None:
    folder = Path(sys.argv[1])
    changes = {name: json.loads(value) for name, _, value in (word.partition("=") for word in sys.argv[2:])}
    if os.environ.get("LONG_RUN"):
        return run(folder, changes)
    environment = dict(os.environ, LONG_RUN="1", OMP_NUM_THREADS="1")
    process = subprocess.Popen([sys.executable, __file__, *sys.argv[1:]], env=environment)
    seen = 0.0
    while process.poll() is None:
        time.sleep(3)
        file = folder / "checkpoint.safetensors"
        if file.exists() and file.stat().st_mtime != seen:
            seen = file.stat().st_mtime
            keep(folder)
    if (folder / "checkpoint.safetensors").exists():
        keep(folder)
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
