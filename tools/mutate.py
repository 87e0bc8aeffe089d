"""Mutation check: small faults are put into the exported cells one at a time, and the tests must notice.

    python tools/mutate.py                                     15 mutants a notebook, two processes
    python tools/mutate.py --notebook learn/07_patchgan        one notebook; may be repeated
    python tools/mutate.py --per-notebook 0                    every mutant there is
    python tools/mutate.py --list                              show them, run nothing

Mutants are made by the rules of tools/mutations.py; `--seed` picks among them, evenly along each notebook.
Each is run as `nbdev_test` would: the notebook's code cells in order, `IN_TEST=1`, in a temporary copy of
the repository whose module is exported anew with the fault, so that commands in subprocesses see it too. A
mutant is killed by the first cell that raises, or when it takes more than three times the processor time of
the sound notebook. What survives its own notebook is tried on those that test the same module (KILLERS).
The cells before the fault are run once, and every mutant is a fork of that process; files it changed are
put back.

First each notebook runs in the same way with a fault that changes nothing; it must pass.

Exit code 1 when fewer than 90% are killed or a survivor has no explanation in tools/mutants.json, a list of
{"notebook", "before", "after", "why"}; 2 when a notebook fails without any fault. The whole report goes to
results/mutation.json.
"""

import __future__

import argparse
import ast
import json
import linecache
import math
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations import MUTATIONS, Mutants

ROOT = Path(__file__).resolve().parent.parent
EXPLANATIONS = Path(__file__).with_name("mutants.json")
LEAST = 0.9  # share that must be killed

# which notebooks beside its own test a module
KILLERS = {
    "learn/03_mixture_posterior": ["tests/mixture_more"],
    "learn/06_resnet": ["reference/fuse"],
    "learn/07_patchgan": ["tests/patchgan_more"],
    "learn/09_training_step": ["tests/training_more", "reference/training_loop"],
    "learn/11_sampling": ["reference/stored_samplers"],
    "reference/bench": ["reference/bench_command", "tests/commands"],
    "reference/checkpoint": ["tests/resume", "tests/bad_input"],
    "reference/checks": ["tests/bad_input"],
    "reference/commands": ["tests/commands"],
    "reference/configuration": ["tests/bad_input", "tests/commands"],
    "reference/evaluation": ["reference/training_loop"],
    "reference/image_batches": ["reference/image_datasets", "tests/bad_input"],
    "reference/image_datasets": ["tests/bad_input"],
    "reference/image_files": ["reference/image_datasets", "tests/bad_input"],
    "reference/measurements": ["tests/commands"],
    "reference/options": ["tests/commands"],
    "reference/randomness": ["reference/training_loop", "tests/resume"],
    "reference/training_loop": ["tests/resume", "tests/interrupt", "tests/commands"],
}


def source(cell):
    return "".join(cell["source"])


def load(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def exported(text):
    return bool(re.search(r"^#\|\s*exports?\b", text, re.M))


def changed_lines(before, after):
    "The lines that differ, old and new, each as one string."
    old, new = before.split("\n"), after.split("\n")
    while old and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    return tuple("\n".join(line.strip() for line in lines) for lines in (old, new))


def generate(name, root=ROOT):
    """All mutants of a notebook, in reading order.

    Dicts with the cell's index, the changed line before and after, and the cell's whole new source.
    """
    found, seen = [], set()
    for index, cell in enumerate(load(root / f"nbs/{name}.ipynb")["cells"]):
        text = source(cell)
        if cell["cell_type"] != "code" or not exported(text):
            continue
        tree, raw = ast.dump(ast.parse(text)), text.encode()
        for rule, start, end, new in sorted(Mutants(text).found, key=lambda m: m[1:]):
            mutated = (raw[:start] + new.encode() + raw[end:]).decode()
            try:
                dump = ast.dump(ast.parse(mutated))
            except SyntaxError:
                continue
            if dump == tree or (index, dump) in seen:
                continue
            seen.add((index, dump))
            before, after = changed_lines(text, mutated)
            mutant = dict(notebook=name, cell=index, id=cell.get("id"), rule=rule, source=mutated)
            found.append(mutant | dict(line=raw[:start].count(b"\n") + 1, before=before, after=after))
    return found


def pick(mutants, n, seed):
    "`n` of them, one at random from each of `n` equal stretches; all if `n` is 0 or too large."
    if not n or n >= len(mutants):
        return mutants
    rng = random.Random(f"{seed} {mutants[0]['notebook']}")
    edges = [round(k * len(mutants) / n) for k in range(n + 1)]
    return [mutants[rng.randrange(a, b)] for a, b in zip(edges, edges[1:])]


# ---- running: one notebook in one process


class Runner:
    "Executes a notebook's code cells in a namespace that passes for `__main__`, without IPython."

    def __init__(self, name, nbs):
        self.name, self.flags = name, 0
        self.cells = load(nbs / f"{name}.ipynb")["cells"]
        self.module = sys.modules["__main__"] = types.ModuleType("__main__")

    def runs(self, index):
        cell, text = self.cells[index], source(self.cells[index])
        if cell["cell_type"] != "code" or "nbdev_export(" in text:
            return False
        return not re.search(r"^#\|\s*(eval:\s*false|slow)\b", text, re.M)

    def run(self, index, text=None):
        if not self.runs(index):
            return
        text, label = text or source(self.cells[index]), f"<{self.name} cell {index}>"
        linecache.cache[label] = (len(text), None, text.splitlines(True), label)
        code = compile(text, label, "exec", flags=self.flags, dont_inherit=True)
        for feature in __future__.all_feature_names:
            self.flags |= code.co_flags & getattr(__future__, feature).compiler_flag
        exec(code, self.module.__dict__)
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")  # as the inline backend does


def export(path, index, text):
    "Write the fault into the copy's notebook and module."
    from nbdev.export import nb_export

    book = load(path)
    book["cells"][index]["source"] = text.splitlines(keepends=True)
    path.write_text(json.dumps(book), encoding="utf-8")
    nb_export(str(path))


current = []  # the fork that runs


def end(*_):
    for pid in current:
        os.killpg(pid, signal.SIGKILL)
    os._exit(1)


def used_by(group):
    "Processor seconds of the processes of a group, from /proc; elsewhere just the time, for ten minutes."
    if not Path("/proc/self/stat").exists():
        return min(time.monotonic(), began_waiting.setdefault(group, time.monotonic()) + 600)
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()  # 2 is the group, 11 to 14 the times
        except OSError:
            continue
        if int(fields[2]) == group:
            total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


began_waiting: dict[int, float] = {}


def in_fork(work, limit, patience=60.0):
    """Run `work()` in a fork, for at most `limit` seconds of processor time: its result, or dict(error=...).

    Time on the clock says little on a busy machine, so it ends a fork only when that used no processor time
    for `patience` seconds.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()  # so that what it starts can be ended with it
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 5))
        try:
            result = work()
        except BaseException as error:
            result = dict(error=f"{type(error).__name__}: {error}"[:500])
        os.write(write, json.dumps(result).encode()[:60_000])
        os._exit(0)
    current[:] = [pid]
    os.close(write)
    ready, before = [], -1.0
    while not ready and (spent := used_by(pid)) > before + 0.02:  # one that waits for ever uses none
        before = spent
        ready, _, _ = select.select([read], [], [], patience)
    result = os.read(read, 65_536) if ready else b""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    ended = os.waitpid(pid, 0)[1]
    current.clear()
    os.close(read)
    if result:
        return json.loads(result)
    out_of_time = not ready or (os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGXCPU)
    return dict(error=f"Timeout: more than {limit:.0f} s" if out_of_time else "Death: the process ended")


def processor_seconds():
    return sum(os.times()[:4])


def sync(source_folder, target):
    "Make `target` the same as `source_folder`, judging files by size and time."

    def listing(folder):
        return {
            path.relative_to(folder): (s.st_size, s.st_mtime_ns, s.st_mode)
            if not path.is_dir() or path.is_symlink()
            else None
            for path in sorted(Path(folder).rglob("*"))
            for s in [path.lstat()]
        }

    have, want = listing(target), listing(source_folder)
    for path in sorted(set(have) - set(want), reverse=True):
        (target / path).rmdir() if have[path] is None else (target / path).unlink()
    for path, stamp in want.items():
        if have.get(path, ()) == stamp:
            continue
        if stamp is None:
            (target / path).mkdir(exist_ok=True)
        else:
            (target / path).unlink(missing_ok=True)
            shutil.copy2(source_folder / path, target / path, follow_symlinks=False)


def job(order):
    """One process: some mutants on one notebook, a line of JSON for each on standard output.

    A mutant without a fault is the sound notebook; one of another module runs this one from its start.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    signal.signal(signal.SIGTERM, end)
    sys.path.pop(0)  # this script's folder
    box, name = Path(order["box"]), order["notebook"]
    nbs = box / "live/nbs"
    os.chdir((nbs / name).parent)
    sys.argv = ["notebook"]
    import nbdev.export  # noqa: F401, once for all forks

    runner = Runner(name, nbs)

    def first(mutant):
        return mutant["cell"] if mutant["notebook"] == name else 0

    def attempt(mutant):
        "The rest of the notebook with the fault: where and how it failed, and the time of each cell."
        export(nbs / f"{mutant['notebook']}.ipynb", mutant["cell"], mutant["source"])
        times = []
        for index in range(first(mutant), len(runner.cells)):
            began = processor_seconds()
            own = mutant["notebook"] == name and index == mutant["cell"]
            try:
                runner.run(index, mutant["source"] if own else None)
            except BaseException as error:
                return dict(by=index, error=f"{type(error).__name__}: {error}"[:500])
            times.append(processor_seconds() - began)
        return dict(times=times)

    times = []
    for index in range(max(map(first, order["mutants"])) + 1):
        here = [m for m in order["mutants"] if first(m) == index]
        if here:
            sync(box / "live", box / "kept")
        for mutant in here:
            began = processor_seconds()
            result = in_fork(lambda: attempt(mutant), max(20.0, 3 * sum(order["times"][index:])))
            sync(box / "kept", box / "live")
            if "times" in result:
                result["times"] = times + result["times"]
            line = dict(result, number=mutant["number"], seconds=round(processor_seconds() - began, 2))
            print(json.dumps(line), file=out)
        began = processor_seconds()
        runner.run(index)
        times.append(processor_seconds() - began)
    os._exit(0)


# ---- the whole

running, stopped = set(), []  # processes; whether to stop


def stop(*_):
    stopped.append(True)
    for process in list(running):
        process.terminate()


LEFT_OUT = ".git .venv venv results _docs _proc build dist *.egg-info __pycache__ .ipynb_checkpoints".split()
LEFT_OUT += [".*_cache"]


def start(order, each):
    "A job in a process and a copy of its own; `each` gets every line that it says."
    if stopped:
        return
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        box = Path(folder)
        live = box / "live"
        shutil.copytree(ROOT, live, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for sub in (box / "kept", live / ".tmp", live / ".cache"):
            sub.mkdir()
        faces = any(m["notebook"].startswith("reference/faces") for m in order["mutants"])
        env = dict(
            os.environ,
            IN_TEST="1",
            OMP_NUM_THREADS="1",
            MKL_NUM_THREADS="1",
            OMP_WAIT_POLICY="PASSIVE",
            MPLBACKEND="agg",
            PYTHONPATH=str(live),
            PYTHONDONTWRITEBYTECODE="1",
            PYTHONWARNINGS="ignore",
            TMPDIR=str(live / ".tmp"),
            # drawn faces are shared where no fault can reach them
            VAE_TUTORIAL_CACHE=str(live / ".cache") if faces else order["cache"],
        )
        command, pipe = [sys.executable, __file__, "--job"], subprocess.PIPE
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=env, start_new_session=True
        ) as process:
            running.add(process)
            try:
                process.stdin.write(json.dumps(dict(order, box=str(box))))
                process.stdin.close()
                for line in process.stdout:
                    each(json.loads(line))
            finally:
                running.discard(process)


def notebooks_with_modules():
    folder = ROOT / "nbs"
    paths = [path for path in folder.rglob("*.ipynb") if "/." not in str(path.relative_to(ROOT))]
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for path in paths
        if any(exported(source(cell)) for cell in load(path)["cells"])
    )


def shown(mutant):
    where = f"{mutant['notebook']}.ipynb, cell {mutant['cell']} ({mutant['id']}), line {mutant['line']}"
    lines = [f"    - {line}" for line in mutant["before"].split("\n")]
    lines += [f"    + {line}" for line in mutant["after"].split("\n")]
    return "\n".join([f"{where}, {mutant['rule']}", *lines])


def sound_times(names, first_cells, cache, workers):
    "The time of each cell of the notebooks without a fault, and what failed: name -> list, a list of lines."
    times, broken = {}, []

    def run(name):
        def each(line):
            if "times" in line:
                times[name] = line["times"]
            else:
                broken.append(f"{name}, cell {line.get('by', '?')}: {line['error']}")

        cell = first_cells.get(name, 0)
        text = source(load(ROOT / f"nbs/{name}.ipynb")["cells"][cell])
        nothing = dict(number=0, notebook=name, cell=cell, source=text)
        start(dict(notebook=name, cache=cache, times=[3600.0] * (cell + 1), mutants=[nothing]), each)
        if name not in times and not any(line.startswith(f"{name},") for line in broken):
            broken.append(f"{name}, a cell before the first exported one fails")

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, names))
    return times, broken


def main(args, cache):
    every = {name: generate(name) for name in args.notebook or notebooks_with_modules()}
    every = {name: mutants for name, mutants in every.items() if mutants}
    chosen = [dict(m) for mutants in every.values() for m in pick(mutants, args.per_notebook, args.seed)]
    for number, mutant in enumerate(chosen):
        mutant["number"] = number
    if args.list:
        print("\n".join(shown(m) for m in chosen))
        for name, mutants in every.items():
            print(f"{name}: {sum(m['notebook'] == name for m in chosen)} of {len(mutants)}")
        return 0
    written = json.loads(EXPLANATIONS.read_text(encoding="utf-8")) if EXPLANATIONS.exists() else []
    explained = {(e["notebook"], e["before"], e["after"]): e["why"] for e in written}
    possible = {(m["notebook"], m["before"], m["after"]) for mutants in every.values() for m in mutants}
    stale = [key for key in explained if key[0] in every and key not in possible]
    for key in stale:
        print(f"{EXPLANATIONS.name} explains a mutant of {key[0]} that is not made any more: {key[2]!r}")

    began = time.time()
    first_cells = {name: min(m["cell"] for m in chosen if m["notebook"] == name) for name in every}
    times, broken = sound_times(every, first_cells, cache, args.workers)
    if stopped:
        return 130
    if broken:
        print("without any fault:", *broken, sep="\n")
        return 2
    spent = sum(map(sum, times.values()))
    print(
        f"{len(every)} sound notebooks: {spent:.0f} s of processor time, {time.time() - began:.0f} s in all"
    )

    def told(line):
        mutant = chosen[line["number"]]
        mutant.update({key: line.get(key) for key in ("seconds", "error", "by")}, killed="error" in line)
        state = "killed  " if mutant["killed"] else "SURVIVED"
        first_line = (mutant["after"] or "(dropped)").split("\n")[0]
        count = f"{sum('killed' in m for m in chosen):4}/{len(chosen)}"
        text = f"{count} {line['seconds']:6.1f} s  {state} {mutant['notebook']}: {first_line}"
        print(text[:150], flush=True)

    def run(mutants, runners):
        "All of `mutants`, each on the notebook `runners` names, in as many processes as there are workers."
        orders = [
            dict(notebook=name, cache=cache, times=times[name], mutants=part)
            for name in set(runners.values())
            for mine in [[m for m in mutants if runners[m["number"]] == name]]
            for part in (mine[k :: args.workers] for k in range(args.workers))
            if part
        ]
        orders.sort(key=lambda order: -sum(order["times"]) * len(order["mutants"]))
        with ThreadPoolExecutor(args.workers) as pool:
            list(pool.map(lambda order: start(order, told), orders))

    run(chosen, {m["number"]: m["notebook"] for m in chosen})
    for k in range(max(map(len, KILLERS.values()))):  # survivors, on the k-th other notebook
        killers = {
            m["number"]: KILLERS[m["notebook"]][k]
            for m in chosen
            if m.get("killed") is False and len(KILLERS.get(m["notebook"], [])) > k
        }
        killers = {n: name for n, name in killers.items() if (ROOT / f"nbs/{name}.ipynb").exists()}
        new_times, broken = sound_times(set(killers.values()) - set(times), {}, cache, args.workers)
        times |= new_times
        if broken:
            print("without any fault:", *broken, sep="\n")
        killers = {number: name for number, name in killers.items() if name in times}
        if killers and not stopped:
            print(f"{len(killers)} survivors on {', '.join(sorted(set(killers.values())))}", flush=True)
            run([chosen[number] for number in killers], killers)
    if stopped:
        return 130
    return report(args, every, chosen, explained, stale, (time.time() - began) / 60)


def report(args, every, chosen, explained, stale, minutes):
    "Print the table and the survivors, write the report; the exit code."
    survivors = [m for m in chosen if m.get("killed") is False]
    for m in survivors:
        m["why"] = explained.get((m["notebook"], m["before"], m["after"]))
    print(f"\n{'notebook':28} {'made':>6} {'run':>5} {'killed':>7}   by an assertion, another error, time")
    for name in [*every, "all"]:
        mine = [m for m in chosen if name in (m["notebook"], "all") and "killed" in m]
        dead = [m["error"].split(":")[0] for m in mine if m["killed"]]
        asserted, late = dead.count("AssertionError"), dead.count("Timeout")
        made = sum(map(len, every.values())) if name == "all" else len(every[name])
        kinds = f"{asserted}, {len(dead) - asserted - late}, {late}"
        print(f"{name:28} {made:6} {len(mine):5} {len(dead):7}   {kinds}")
    for m in survivors:
        print(f"\nsurvived: {shown(m)}\n    {m['why'] or 'NOT EXPLAINED'}")
    lost = sum("killed" not in m for m in chosen)
    unexplained = [m for m in survivors if not m["why"]]
    share = 1 - len(survivors) / max(len(chosen), 1)
    kept = [{k: v for k, v in m.items() if k not in ("source", "number")} for m in chosen]
    about = dict(seed=args.seed, per_notebook=args.per_notebook, minutes=round(minutes, 1))
    text = json.dumps(about | dict(share=round(share, 4), mutants=kept), indent=1, ensure_ascii=False)
    args.report.parent.mkdir(parents=True, exist_ok=True)
    args.report.write_text(text + "\n", encoding="utf-8")
    print(f"\n{len(chosen) - len(survivors) - lost} of {len(chosen)} killed, {share:.1%}; ", end="")
    print(f"{len(unexplained)} survivors not explained; {minutes:.1f} minutes; {args.report}")
    if lost:
        print(f"{lost} mutants were not run: a process ended before them")
    return int(bool(unexplained or lost or stale or share < LEAST))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Rules: " + "; ".join(f"{k}: {v}" for k, v in MUTATIONS.items()),
    )
    many, book = "mutants a notebook; 0 for all (default 15)", "may be repeated; else all with a module"
    parser.add_argument("--per-notebook", type=int, default=15, metavar="N", help=many)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--notebook", action="append", metavar="FOLDER/NAME", help=book)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="show the mutants, run nothing")
    parser.add_argument("--report", type=Path, default=ROOT / "results/mutation.json")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        job(json.load(sys.stdin))
    if unknown := sorted(set(arguments.notebook or []) - set(notebooks_with_modules())):
        parser.error(f"no module comes from {', '.join(unknown)}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with tempfile.TemporaryDirectory(prefix="mutate-") as drawn:
        status = main(arguments, drawn)
    sys.exit(status)
