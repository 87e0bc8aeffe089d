"""Mutation check: small faults are put into the exported cells one at a time, and the notebook's own tests must notice.

    python .ci/mutate.py                            15 mutants a notebook, two processes
    python .ci/mutate.py --notebook 02_mixture      one notebook; may be repeated
    python .ci/mutate.py --per-notebook 0           every mutant there is
    python .ci/mutate.py --list                     show them, run nothing

Mutants are made by rules from the syntax tree (MUTATIONS below), not chosen by hand; `--seed` picks among them, evenly along each notebook.
Each is run as `nbdev_test` would: the notebook's code cells in order, `IN_TEST=1`, in a temporary copy of the repository whose module is
exported anew with the fault, so that commands in subprocesses see it too. A mutant is killed by the first cell that raises, or when it takes more
than three times the processor time of the sound notebook. The cells before the fault are run once, and every mutant is a fork of that process; files
it changed are put back.

First each notebook runs in the same way with a fault that changes nothing; it must pass.

Exit code 1 when fewer than 90% are killed or a survivor has no explanation in .ci/mutants.json, a list of
{"notebook", "before", "after", "why"}; 2 when a notebook fails without any fault. The whole report goes to results/mutation.json.
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

ROOT = Path(__file__).resolve().parent.parent
EXPLANATIONS = Path(__file__).with_name("mutants.json")
LEAST = 0.9  # share that must be killed

# ---- the rules

BINARY = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "//"),
          ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&")}
COMPARISON = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="),
              ast.Is: ("is", "is not"), ast.IsNot: (r"is\s+not", "is"), ast.In: ("in", "not in"), ast.NotIn: (r"not\s+in", "in")}
EXACT = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)  # flipping one of these is the negation
SWAPS = "mean sum, min max, amin amax, minimum maximum, argmin argmax, floor ceil, sin cos, any all, zeros ones, zeros_like ones_like, new_zeros new_ones, zeros_ ones_"
SWAPPED = {a: b for pair in SWAPS.split(", ") for a, b in (pair.split(), reversed(pair.split()))}
DROPPED = set("detach abs square sqrt exp log log1p clamp relu round".split())  # x.f() and torch.f(x), math.f(x), f(x) become x
REDUCTIONS = set("mean sum var std amin amax min max argmin argmax softmax logsumexp cat stack cumsum norm median quantile any all prod flip sort".split())
LOOKS = set("""figsize fontsize lw linewidth ls linestyle alpha ms marker color c cmap interpolation dpi pad pad_inches bbox_inches height_ratios width_ratios
               hspace wspace rotation ha va size zorder frameon loc edgecolor facecolor quality""".split())  # of a figure: nothing claims them
MUTATIONS = {
    "operator": "+ and -, * and /, // to *, % to //, ** to *, & and |, also as +=",
    "term": "a summand or factor dropped",
    "sign": "a unary minus dropped",
    "constant": "n to n + 1 up to 16, above it and with a decimal point to the double, 0. to 1., True and False",
    "comparison": "< and <=, > and >=, == and !=, is and is not, in and not in",
    "logic": "and and or, a `not` dropped, the condition of an if, a conditional expression or a comprehension negated",
    "call": "mean and sum, min and max, and such: " + SWAPS,
    "dropped call": "f(x) to x for f in " + ", ".join(sorted(DROPPED)),
    "variance": "an unbiased variance or standard deviation made biased",
    "dimension": "0 and 1, -1 to 0, as the dimension of a reduction",
}


class Mutants(ast.NodeVisitor):
    "Collects (rule, start, end, replacement) for one cell; positions are in bytes, as `ast` counts."
    def __init__(self, text):
        self.text, self.found = text.encode(), []
        self.starts = [0]
        for line in self.text.split(b"\n"): self.starts.append(self.starts[-1] + len(line) + 1)
        self.visit(ast.parse(text))

    def span(self, node): return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset
    def of(self, node): return self.text[slice(*self.span(node))].decode()
    def add(self, rule, span, replacement): self.found.append((rule, *span, replacement))

    def whole(self, node):
        "The text of `node`, in parentheses where precedence could matter."
        return self.of(node) if isinstance(node, (ast.Name, ast.Constant, ast.Call, ast.Attribute, ast.Subscript)) else f"({self.of(node)})"

    def token(self, rule, left, right, pattern, replacement):
        "Replace the operator that stands between two nodes, where beside it are parentheses, spaces and comments only."
        start, end = self.span(left)[1], self.span(right)[0]
        between = re.sub(rb"#[^\n]*", lambda m: b" " * len(m[0]), self.text[start:end])
        if m := re.search(rb"(?<![\w*/])" + pattern.encode() + rb"(?![\w*/=])", between): self.add(rule, (start + m.start(), start + m.end()), replacement)

    # what is left alone
    def visit_Raise(self, node): pass
    def visit_JoinedStr(self, node): pass
    def visit_Import(self, node): pass
    def visit_ImportFrom(self, node): pass
    def visit_Assert(self, node): self.visit(node.test)

    def visit_FunctionDef(self, node):
        for default in node.args.defaults + [d for d in node.args.kw_defaults if d is not None]: self.visit(default)
        for child in node.body: self.visit(child)

    def visit_ClassDef(self, node):
        for child in node.body: self.visit(child)

    def visit_AnnAssign(self, node):
        if node.value is not None: self.visit(node.value)

    def visit_Assign(self, node):
        if getattr(node.targets[0], "id", "") != "__all__": self.generic_visit(node)

    def visit_keyword(self, node):
        if node.arg not in LOOKS: self.visit(node.value)

    def visit_Dict(self, node):
        for key, value in zip(node.keys, node.values):
            name = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""
            if "." not in name or name.rpartition(".")[2] not in LOOKS: self.visit(value)  # as in matplotlib's settings: {"font.size": 10}
            if key is not None: self.visit(key)

    # what is changed
    def visit_BinOp(self, node):
        literal = (ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.ListComp)
        if not any(isinstance(side, literal) or (isinstance(side, ast.Constant) and not isinstance(side.value, (int, float))) for side in (node.left, node.right)):
            if type(node.op) in BINARY:
                sign, other = BINARY[type(node.op)]
                self.token("operator", node.left, node.right, re.escape(sign), other)
            if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)): self.add("term", self.span(node), self.whole(node.left))
            if isinstance(node.op, (ast.Add, ast.Mult)): self.add("term", self.span(node), self.whole(node.right))
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        if type(node.op) in BINARY:
            sign, other = BINARY[type(node.op)]
            start, end = self.span(node.target)[1], self.span(node.value)[0]
            at = self.text.index(sign.encode() + b"=", start, end)
            self.add("operator", (at, at + len(sign)), other)
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        if isinstance(node.op, ast.USub):
            self.add("sign", self.span(node), self.whole(node.operand))
            if not isinstance(node.operand, ast.Constant): self.visit(node.operand)
            return
        if isinstance(node.op, ast.Not): self.add("logic", self.span(node), self.whole(node.operand))
        self.generic_visit(node)

    def visit_Constant(self, node):
        value = node.value
        if isinstance(value, bool): self.add("constant", self.span(node), str(not value))
        elif isinstance(value, int): self.add("constant", self.span(node), str(value + 1 if value <= 16 else 2 * value))
        elif isinstance(value, float): self.add("constant", self.span(node), repr(2 * value if value else 1.))

    def visit_Compare(self, node):
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators):
            self.token("comparison", left, right, *COMPARISON[type(op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        pair = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:]): self.token("logic", left, right, *pair)
        self.generic_visit(node)

    def negate(self, test):
        exact = isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], EXACT)
        if not exact and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)): self.add("logic", self.span(test), f"(not ({self.of(test)}))")

    def visit_If(self, node): self.negate(node.test); self.generic_visit(node)
    def visit_IfExp(self, node): self.negate(node.test); self.generic_visit(node)

    def visit_comprehension(self, node):
        for test in node.ifs: self.negate(test)
        self.generic_visit(node)

    def visit_Call(self, node):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("print", "warn"): return
        method = isinstance(node.func, ast.Attribute)
        end = self.span(node.func)[1]
        if name in SWAPPED and (method or name in ("min", "max", "any", "all")): self.add("call", (end - len(name.encode()), end), SWAPPED[name])
        if name in DROPPED:
            inner = node.args[0] if node.args and not (method and isinstance(node.func.value, ast.Call)) and \
                (not method or getattr(node.func.value, "id", "") in ("torch", "math", "np", "F")) else node.func.value if method else None
            if inner is not None and not (getattr(inner, "id", "") in ("torch", "math", "np", "F")): self.add("dropped call", self.span(node), self.whole(inner))
        if name in ("var", "std") and method and not {"correction", "unbiased"} & {k.arg for k in node.keywords}:
            last = self.span(node)[1] - 1
            self.add("variance", (last, last), ", correction=0" if node.args or node.keywords else "correction=0")
        skip = set()
        if name in REDUCTIONS and method:
            numbers = [node.args[0]] if node.args and getattr(node.func.value, "id", "") not in ("torch", "F") else node.args[1:2]
            for dim in numbers + [k.value for k in node.keywords if k.arg == "dim"]:
                try: value = ast.literal_eval(dim)
                except ValueError: continue
                if type(value) is int and value in (0, 1, -1): self.add("dimension", self.span(dim), {0: "1", 1: "0", -1: "0"}[value]); skip.add(dim)
        for child in [node.func, *node.args, *node.keywords]:
            if child in skip or getattr(child, "value", None) in skip and isinstance(child, ast.keyword): continue
            self.visit(child)


def source(cell): return "".join(cell["source"])
def load(path): return json.loads(Path(path).read_text(encoding="utf-8"))
def exported(text): return bool(re.search(r"^#\|\s*exports?\b", text, re.M))


def changed_lines(before, after):
    "The lines that differ, old and new, each as one string."
    old, new = before.split("\n"), after.split("\n")
    while old and new and old[0] == new[0]: old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]: old, new = old[:-1], new[:-1]
    return tuple("\n".join(line.strip() for line in lines) for lines in (old, new))


def generate(name, root=ROOT):
    "All mutants of a notebook, in reading order: dicts with the cell's index, the changed line before and after, and the cell's whole new source."
    found, seen = [], set()
    for index, cell in enumerate(load(root / f"nbs/{name}.ipynb")["cells"]):
        text = source(cell)
        if cell["cell_type"] != "code" or not exported(text): continue
        tree, raw = ast.dump(ast.parse(text)), text.encode()
        for rule, start, end, new in sorted(Mutants(text).found, key=lambda m: m[1:]):
            mutated = (raw[:start] + new.encode() + raw[end:]).decode()
            try: dump = ast.dump(ast.parse(mutated))
            except SyntaxError: continue
            if dump == tree or (index, dump) in seen: continue
            seen.add((index, dump))
            before, after = changed_lines(text, mutated)
            found.append(dict(notebook=name, cell=index, id=cell.get("id"), line=raw[:start].count(b"\n") + 1, rule=rule, before=before, after=after, source=mutated))
    return found


def pick(mutants, n, seed):
    "`n` of them, one at random from each of `n` equal stretches; all if `n` is 0 or too large."
    if not n or n >= len(mutants): return mutants
    rng = random.Random(f"{seed} {mutants[0]['notebook']}")
    edges = [round(k * len(mutants) / n) for k in range(n + 1)]
    return [mutants[rng.randrange(a, b)] for a, b in zip(edges, edges[1:])]


# ---- running: one notebook in one process

class Runner:
    "Executes a notebook's code cells in a namespace of their own that passes for `__main__`, as nbdev_test does, without IPython."
    def __init__(self, name):
        self.name, self.flags = name, 0
        self.cells = load(f"{name}.ipynb")["cells"]
        self.module = sys.modules["__main__"] = types.ModuleType("__main__")

    def runs(self, index):
        cell, text = self.cells[index], source(self.cells[index])
        if cell["cell_type"] != "code" or "nbdev_export(" in text: return False
        return not re.search(r"^#\|\s*(eval:\s*false|slow)\b", text, re.M)

    def run(self, index, text=None):
        if not self.runs(index): return
        text, label = text or source(self.cells[index]), f"<{self.name} cell {index}>"
        linecache.cache[label] = (len(text), None, text.splitlines(True), label)
        code = compile(text, label, "exec", flags=self.flags, dont_inherit=True)
        for feature in __future__.all_feature_names: self.flags |= code.co_flags & getattr(__future__, feature).compiler_flag
        exec(code, self.module.__dict__)
        if "matplotlib.pyplot" in sys.modules: sys.modules["matplotlib.pyplot"].close("all")  # as the inline backend does


def export(name, index, text):
    "Write the fault into the copy's notebook and module."
    from nbdev.export import nb_export
    book = load(f"{name}.ipynb")
    book["cells"][index]["source"] = text.splitlines(keepends=True)
    Path(f"{name}.ipynb").write_text(json.dumps(book), encoding="utf-8")
    nb_export(f"{name}.ipynb")


current = []  # the fork that runs


def end(*_):
    for pid in current: os.killpg(pid, signal.SIGKILL)
    os._exit(1)


def used_by(group):
    "Processor seconds of the processes of a group, from /proc; elsewhere just the time, for ten minutes."
    if not Path("/proc/self/stat").exists(): return min(time.monotonic(), began_waiting.setdefault(group, time.monotonic()) + 600)
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try: fields = path.read_text().rpartition(")")[2].split()  # from the state on: 2 is the group, 11 to 14 the times
        except OSError: continue
        if int(fields[2]) == group: total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


began_waiting: dict[int, float] = {}


def in_fork(work, limit, patience=60.):
    """Run `work()` in a fork, for at most `limit` seconds of processor time: what it returned, or a dict(error=...).

    Time on the clock says little on a busy machine, so it ends a fork only when that used no processor time for `patience` seconds.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()  # so that what it starts can be ended with it
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 5))
        try: result = work()
        except BaseException as error: result = dict(error=f"{type(error).__name__}: {error}"[:500])
        os.write(write, json.dumps(result).encode()[:60_000])
        os._exit(0)
    current[:] = [pid]
    os.close(write)
    ready, before = [], -1.
    while not ready and (spent := used_by(pid)) > before + 0.02:  # one that waits for ever uses no processor time
        before = spent
        ready, _, _ = select.select([read], [], [], patience)
    result = os.read(read, 65_536) if ready else b""
    try: os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError): pass
    ended = os.waitpid(pid, 0)[1]
    current.clear()
    os.close(read)
    if result: return json.loads(result)
    out_of_time = not ready or (os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGXCPU)
    return dict(error=f"Timeout: more than {limit:.0f} s" if out_of_time else "Death: the process ended")


def processor_seconds(): return sum(os.times()[:4])


def sync(source_folder, target):
    "Make `target` the same as `source_folder`, judging files by size and time."
    def listing(folder):
        return {path.relative_to(folder): (s.st_size, s.st_mtime_ns, s.st_mode) if not path.is_dir() or path.is_symlink() else None
                for path in sorted(Path(folder).rglob("*")) for s in [path.lstat()]}
    have, want = listing(target), listing(source_folder)
    for path in sorted(set(have) - set(want), reverse=True):
        (target / path).rmdir() if have[path] is None else (target / path).unlink()
    for path, stamp in want.items():
        if have.get(path, ()) == stamp: continue
        if stamp is None: (target / path).mkdir(exist_ok=True)
        else:
            (target / path).unlink(missing_ok=True)
            shutil.copy2(source_folder / path, target / path, follow_symlinks=False)


def job(order):
    "One process: some of a notebook's mutants, a line of JSON for each on standard output. A mutant without a fault is the sound notebook."
    out = os.fdopen(os.dup(1), "w", buffering=1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2): os.dup2(null, fd)
    signal.signal(signal.SIGTERM, end)
    sys.path.pop(0)  # this script's folder
    box, name = Path(order["box"]), order["notebook"]
    os.chdir(box / "live/nbs")
    sys.argv = ["notebook"]
    import nbdev.export  # noqa: F401, once for all forks
    runner = Runner(name)

    def attempt(mutant):
        "The rest of the notebook with the fault: where and how it failed, and the time of each cell."
        export(name, mutant["cell"], mutant["source"])
        times = []
        for index in range(mutant["cell"], len(runner.cells)):
            began = processor_seconds()
            try: runner.run(index, mutant["source"] if index == mutant["cell"] else None)
            except BaseException as error: return dict(by=index, error=f"{type(error).__name__}: {error}"[:500])
            times.append(processor_seconds() - began)
        return dict(times=times)

    times = []
    for index in range(max(m["cell"] for m in order["mutants"]) + 1):
        here = [m for m in order["mutants"] if m["cell"] == index]
        if here: sync(box / "live", box / "kept")
        for mutant in here:
            began = processor_seconds()
            result = in_fork(lambda: attempt(mutant), max(20., 3 * sum(order["times"][index:])))
            sync(box / "kept", box / "live")
            if "times" in result: result["times"] = times + result["times"]
            print(json.dumps(dict(result, number=mutant["number"], seconds=round(processor_seconds() - began, 2))), file=out)
        began = processor_seconds()
        runner.run(index)
        times.append(processor_seconds() - began)
    os._exit(0)


# ---- the whole

running, stopped = set(), []  # processes; whether to stop


def stop(*_):
    stopped.append(True)
    for process in list(running): process.terminate()


def start(order, each):
    "A job in a process and a copy of its own; `each` gets every line that it says."
    if stopped: return
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        box = Path(folder)
        shutil.copytree(ROOT, box / "live", symlinks=True,
                        ignore=shutil.ignore_patterns(".git", ".venv", "venv", "results", "_docs", "_proc", "build", "dist", "*.egg-info", "__pycache__", ".ipynb_checkpoints"))
        for sub in ("kept", "live/.tmp", "live/.cache"): (box / sub).mkdir()
        cache = box / "live/.cache" if order["notebook"] == "00_data" else order["cache"]  # drawn faces are shared where no fault can reach them
        env = dict(os.environ, IN_TEST="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", MPLBACKEND="agg", PYTHONPATH=str(box / "live"),
                   PYTHONDONTWRITEBYTECODE="1", TMPDIR=str(box / "live/.tmp"), VAE_TUTORIAL_CACHE=str(cache), PYTHONWARNINGS="ignore")
        with subprocess.Popen([sys.executable, __file__, "--job"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True) as process:
            running.add(process)
            try:
                process.stdin.write(json.dumps(dict(order, box=str(box)))); process.stdin.close()
                for line in process.stdout: each(json.loads(line))
            finally:
                running.discard(process)


def notebooks_with_modules(): return sorted(path.stem for path in (ROOT / "nbs").glob("*.ipynb") if any(exported(source(cell)) for cell in load(path)["cells"]))


def shown(mutant):
    return f"{mutant['notebook']}.ipynb, cell {mutant['cell']} ({mutant['id']}), line {mutant['line']}, {mutant['rule']}\n" + \
        "\n".join(f"    {sign} {line}" for sign, text in (("-", mutant["before"]), ("+", mutant["after"])) for line in text.split("\n"))


def main(args, cache):
    every = {name: generate(name) for name in args.notebook or notebooks_with_modules()}
    chosen = [dict(m) for mutants in every.values() for m in pick(mutants, args.per_notebook, args.seed)]
    for number, mutant in enumerate(chosen): mutant["number"] = number
    if args.list:
        print("\n".join(shown(m) for m in chosen))
        print("\n".join(f"{name}: {sum(m['notebook'] == name for m in chosen)} of {len(mutants)}" for name, mutants in every.items()))
        return 0
    explained = {(e["notebook"], e["before"], e["after"]): e["why"] for e in json.loads(EXPLANATIONS.read_text(encoding="utf-8"))}
    possible = {(m["notebook"], m["before"], m["after"]) for mutants in every.values() for m in mutants}
    stale = [key for key in explained if key[0] in every and key not in possible]
    for key in stale: print(f"{EXPLANATIONS.name} explains a mutant of {key[0]} that is not made any more: {key[2]!r}")

    began, times, broken = time.time(), {}, []
    def sound(name):
        def each(line):
            if "times" in line: times[name] = line["times"]
            else: broken.append(f"{name}, cell {line.get('by', '?')}: {line['error']}")
        cell = min((m["cell"] for m in chosen if m["notebook"] == name), default=0)
        text = source(load(ROOT / f"nbs/{name}.ipynb")["cells"][cell])
        start(dict(notebook=name, cache=cache, times=[3600.] * (cell + 1), mutants=[dict(number=0, cell=cell, source=text)]), each)
        if name not in times and not any(line.startswith(name) for line in broken): broken.append(f"{name}: a cell before the first exported one fails")
    with ThreadPoolExecutor(args.workers) as pool: list(pool.map(sound, every))
    if stopped: return 130
    if broken: print("without any fault:", *broken, sep="\n"); return 2
    print(f"{len(every)} sound notebooks: {sum(map(sum, times.values())):.0f} s of processor time, {time.time() - began:.0f} s in all", flush=True)

    def told(line):
        mutant = chosen[line["number"]]
        mutant.update(killed="error" in line, seconds=line["seconds"], error=line.get("error"), by=line.get("by"))
        print(f"{sum('killed' in m for m in chosen):4}/{len(chosen)} {line['seconds']:6.1f} s  {'killed  ' if mutant['killed'] else 'SURVIVED'} {mutant['notebook']}: {mutant['after'].splitlines()[0] if mutant['after'] else '(dropped)'}"[:150], flush=True)
    orders = [dict(notebook=name, cache=cache, times=times[name], mutants=part) for name in every for mine in [[m for m in chosen if m["notebook"] == name]]
              for part in (mine[k::args.workers] for k in range(args.workers)) if part]
    orders.sort(key=lambda order: -sum(order["times"]) * len(order["mutants"]))
    with ThreadPoolExecutor(args.workers) as pool: list(pool.map(lambda order: start(order, told), orders))

    if stopped: return 130
    lost = [m for m in chosen if "killed" not in m]
    survivors = [m for m in chosen if m.get("killed") is False]
    for m in survivors: m["why"] = explained.get((m["notebook"], m["before"], m["after"]))
    print(f"\n{'notebook':14} {'made':>6} {'run':>5} {'killed':>7}   by an assertion, by another error, by time")
    for name in [*every, "all"]:
        mine = [m for m in chosen if name in (m["notebook"], "all") and "killed" in m]
        dead = [m["error"].split(":")[0] for m in mine if m["killed"]]
        kinds = [dead.count("AssertionError"), sum(e not in ("AssertionError", "Timeout") for e in dead), dead.count("Timeout")]
        print(f"{name:14} {sum(map(len, every.values())) if name == 'all' else len(every[name]):6} {len(mine):5} {len(dead):7}   {kinds[0]}, {kinds[1]}, {kinds[2]}")
    for m in survivors: print(f"\nsurvived: {shown(m)}\n    {m['why'] or 'NOT EXPLAINED'}")
    unexplained, share = [m for m in survivors if not m["why"]], 1 - len(survivors) / max(len(chosen), 1)
    args.report.parent.mkdir(parents=True, exist_ok=True)
    args.report.write_text(json.dumps(dict(seed=args.seed, per_notebook=args.per_notebook, minutes=round((time.time() - began) / 60, 1), share=round(share, 4),
                                           mutants=[{k: v for k, v in m.items() if k not in ("source", "number")} for m in chosen]), indent=1, ensure_ascii=False) + "\n")
    print(f"\n{len(chosen) - len(survivors) - len(lost)} of {len(chosen)} killed, {share:.1%}; {len(unexplained)} survivors not explained; {(time.time() - began) / 60:.0f} minutes; {args.report}")
    if lost: print(f"{len(lost)} mutants were not run: a process ended before them")
    return int(bool(unexplained or lost or stale or share < LEAST))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="Rules: " + "; ".join(f"{k}: {v}" for k, v in MUTATIONS.items()))
    parser.add_argument("--per-notebook", type=int, default=15, metavar="N", help="mutants a notebook; 0 for all (default 15)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--notebook", action="append", metavar="NAME", help="such as 02_mixture; may be repeated; else all with a module")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="show the mutants, run nothing")
    parser.add_argument("--report", type=Path, default=ROOT / "results/mutation.json")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job: job(json.load(sys.stdin))
    if unknown := sorted(set(arguments.notebook or []) - set(notebooks_with_modules())):
        parser.error(f"no module comes from {', '.join(unknown)}; there are {', '.join(notebooks_with_modules())}")
    for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, stop)
    with tempfile.TemporaryDirectory(prefix="mutate-") as drawn: status = main(arguments, drawn)
    sys.exit(status)
