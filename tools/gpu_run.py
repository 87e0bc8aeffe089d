"""What only a GPU can do, in ten minutes: `python tools/gpu_run.py OUT [--photographs FOLDER]`.

In this order, each with a limit of its own, so that a late one cannot cost an early one its results:

    checks     tools/cuda_checks.py
    bench      vae_bench L, eagerly and compiled, into bench.json
    faces      the embedded faces at 256 pixels, as proposed
    photographs  the photographs of FOLDER at 128 pixels, gray, as proposed; left out without a FOLDER

OUT receives what they print, a folder of each run with its checkpoint, metrics.json and figures, and
summary.json, which is written anew after each. `--toy` tries the script in a minute, on a CPU, at toy size.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TOOLS = Path(__file__).resolve().parent


def plan(out: Path, photographs: str | None, device: str, minutes: float, toy: bool) -> list[dict]:
    "Name, command and share of the time of each part."
    python, on = [sys.executable], ["--device", device]
    command = ["-c", "import sys; from vae_tutorial.{0} import {1}; sys.argv[0] = '{1}'; {1}()"]
    train, bench = (
        [*python, command[0], command[1].format(module, name)]
        for module, name in (("commands", "vae_train"), ("bench_command", "vae_bench"))
    )
    size = ["T", "--steps", "3"] if toy else ["L", "--steps", "30"]
    bench_out = ["--out", str(out / "bench.json"), *on]
    recipe = ["--preset", "faces", "--schedule", "constant", "--width", "64", "--latent_dim", "256", *on]
    recipe += ["--log_every", "50", "--save_every", "none"]
    small = ["--width", "8", "--latent_dim", "16", "--discriminator_channels", "8,8,1", "--n", "200"]
    runs = {"faces": (["--image_size", "256", "--n", "4000"], 0.3)}
    if photographs:
        of_folder = ["--dataset", photographs, "--in_channels", "1", "--n", "none", "--image_size", "128"]
        runs["photographs"] = (of_folder, 0.35)
    parts = [
        dict(name="checks", command=[*python, str(TOOLS / "cuda_checks.py"), *on], share=0.1),
        dict(name="bench eager", command=[*bench, *size, *bench_out], share=0.08),
        dict(name="bench compiled", command=[*bench, *size, "--compile", *bench_out], share=0.17),
    ]
    for name, (settings, share) in runs.items():
        words = [*recipe, *settings, *(small + ["--image_size", "32"] if toy else [])]
        limit = 0.02 if toy else round(0.8 * share * minutes, 2)  # the rest: drawing, measuring
        words += ["--minutes", str(limit), "--out", str(out / name)]
        parts.append(dict(name=name, command=[*train, *words], share=share))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--photographs", metavar="FOLDER")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything (default: 10)")
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    began, summary = time.monotonic(), []
    for part in plan(given.out, given.photographs, given.device, given.minutes, given.toy):
        left = 60 * given.minutes - (time.monotonic() - began)
        if left < 20:
            summary.append(dict(name=part["name"], result="no time was left"))
            continue
        start, limit = time.monotonic(), min(left, max(60 * part["share"] * given.minutes, 60))
        log = given.out / f"{part['name'].replace(' ', '-')}.log"
        with log.open("w") as file:
            process = subprocess.Popen(part["command"], stdout=file, stderr=file, start_new_session=True)
            try:
                code = process.wait(limit)
                result = "done" if code == 0 else f"exit code {code}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with its workers
                process.wait()
                result = f"stopped after {limit:.0f} s"
        seconds = round(time.monotonic() - start, 1)
        summary.append(dict(name=part["name"], result=result, seconds=seconds, log=log.name))
        print(f"{part['name']}: {result}, {seconds} s", flush=True)
        (given.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(any(part["result"] != "done" for part in summary))


if __name__ == "__main__":
    main()
