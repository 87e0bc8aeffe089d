"""The map from the paper's labels and the notebooks' numbered equations to section, function and test, and its checks.

`python .ci/map.py` compares nbs/map.ipynb with the notebooks and exits with 1, a line for each problem; `--write` brings the page up to date.

What counts, and how it is found:
- An equation is a display `$$ ... \\tag{n.k} $$` in notebook n; tags run from n.1 without a gap.
- Its cells are the code cells from there to the next heading, or to the next tag that has code before it. A check is a cell that asserts:
  `assert`, a call of `test_*` or `assert_*`, or of a function of the same notebook that does so (`near`). Where the place has none, the check is the
  next cell that checks and uses a function defined there ("by use"), or else a checking cell that names (n.k) in a comment or in the paragraph
  before it ("by name").
- Its functions are those that its cells define, exported ones first; else the exported ones that its checks call.
- The paper's equations are found by name: the first cell that says `eq:...`, and the tag before the name. A figure or algorithm is the
  section whose heading begins with its name, or the one given in PAPER; it must define or call a library function and check, and a figure must
  have a stored picture.
"""
import ast
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAPER = [  # label, what it is, and for what no heading names: notebook and section
    ("eq:ELBO_KL", "the KL of a diagonal Gaussian to the prior, in closed form", None),
    ("eq:ELBO_l", "the likelihood: a weighted mean absolute error", None),
    ("Figure 1", "the scheme of a VAE", None),
    ("Figure 2", "the global posterior from the individual ones", None),
    ("Figure 3", "encoder, sampler, decoder", None),
    ("Figure 4", "generated variants: two latents moved by multiples of their posterior standard deviations", None),
    ("Figure 5", "transitions between two images, both trainings", None),
    ("Figure 6", "not known to us; ours are faces generated from the prior", ("07_faces", "Faces from the prior")),
    ("Algorithm 1", "one training step; its wording is not known to us", ("06_training", "3. One step")),
]
KNOWN_GAPS: dict[str, str] = {}  # equation or label without a check -> why; a gap that is closed must leave this list
PLUMBING = {"plotting", "runtime"}  # modules whose functions implement no equation


def source(cell): return "".join(cell["source"])


def read(folder):
    "The tutorial's notebooks in `folder`: name -> list of cells."
    return {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in sorted(Path(folder).glob("0*.ipynb"))}


def library(root=ROOT):
    "Exported name -> module, from each module's `__all__`; checkers of input are left out."
    names = {}
    for path in sorted((Path(root) / "vae_tutorial").glob("[!_]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if path.stem not in PLUMBING and isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names |= {name: path.stem for name in ast.literal_eval(node.value) if not name.startswith("check_")}
    return names


# ---- code cells

def called(node):
    "The name that a call ends in, else ''."
    return getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""


def is_check(node, checkers):
    return isinstance(node, ast.Assert) or called(node).startswith(("test_", "assert_")) or (isinstance(node, ast.Call) and getattr(node.func, "id", "") in checkers)


def check_line(node, text, checkers):
    "The first line of the innermost statement of `node` that checks, or None; a definition alone checks nothing."
    for child in getattr(node, "body", []):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)): continue
        if found := check_line(child, text, checkers): return found
    if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) or not any(is_check(n, checkers) for n in ast.walk(node)): return None
    return text.splitlines()[node.lineno - 1].split("  # ")[0].strip()


class Code:
    "A code cell: what it defines, what it uses, and its first check."
    def __init__(self, cell, module):
        self.text, self.check = source(cell), None
        self.exported = bool(re.search(r"^#\|\s*exports?\b", self.text, re.M))
        self.tree = ast.parse("\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in self.text.splitlines()))
        self.defined = [node.name for node in self.tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        self.used = [node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)]
        self.picture = any(kind.startswith("image/") for output in cell["outputs"] for kind in output.get("data", {}))
        self.folded = "code-fold" in self.text
        self.module = f"{module}." if self.exported else ""

    def find_check(self, checkers): self.check = None if self.exported else check_line(self.tree, self.text, checkers)


def checkers_of(codes):
    "Names of the notebook's own functions that assert, by themselves or through another."
    found, functions = set(), [node for code in codes if not code.exported for node in ast.walk(code.tree) if isinstance(node, ast.FunctionDef)]
    while new := {f.name for f in functions if any(is_check(node, found) for node in ast.walk(f))} - found: found |= new
    return found


# ---- notebooks as a sequence of events

def without_fences(text): return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def events(cells, problems, name):
    "In reading order: ('heading', level, text), ('tag', number, latex), ('label', name), ('text', cell's markdown), ('code', Code)."
    result, codes = [], []
    module = next(iter(re.findall(r"^#\|\s*default_exp +(\w+)", "\n".join(map(source, cells)), re.M)), "")
    for cell in cells:
        if cell["cell_type"] == "code":
            codes.append(Code(cell, module))
            result.append(("code", codes[-1]))
        if cell["cell_type"] != "markdown": continue
        text = without_fences(source(cell))
        found = [(m.start(), ("heading", len(m[1]), m[2].strip())) for m in re.finditer(r"^(#+) +(.+)$", text, re.M)]
        displays = list(re.finditer(r"\$\$(.+?)\$\$", text, re.S))
        for m in re.finditer(r"\\tag\{([^}]*)\}", text):
            display = next((d for d in displays if d.start() < m.start() < d.end()), None)
            if display is None: problems.append(f"{name}: the tag ({m[1]}) stands outside $$ ... $$")
            else: found.append((m.start(), ("tag", m[1], display[1])))
        found += [(m.start(), ("label", m[0])) for m in re.finditer(r"eq:\w+", text)]
        result += [event for _, event in sorted(found, key=lambda pair: pair[0])] + [("text", text)]
    checkers = checkers_of(codes)
    for code in codes: code.find_check(checkers)
    return result


def cited(cells):
    "Numbers of equations that prose and comments name, from (1.1) on; (0.5) may be a plain number."
    for cell in cells:
        prose = re.sub(r"\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`", "", without_fences(source(cell)), flags=re.S) if cell["cell_type"] == "markdown" else \
            "\n".join(line.split("#", 1)[1] for line in source(cell).splitlines() if "#" in line)
        for group in re.findall(r"\(((?:[1-9]\.\d+(?:, | and )?)+)\)", prose): yield from re.findall(r"\d\.\d+", group)


def cells_after(sequence, start):
    "The code of an equation whose tag is event `start`."
    found = []
    for event in sequence[start + 1:]:
        if event[0] == "heading" or (event[0] == "tag" and found): break
        if event[0] == "code": found.append(event[1])
    return found


def section(sequence, start):
    "The code of the section whose heading is event `start`, its subsections included."
    found = []
    for event in sequence[start + 1:]:
        if event[0] == "heading" and event[1] <= sequence[start][1]: break
        if event[0] == "code": found.append(event[1])
    return found


def named(sequence, number):
    "Checking cells that name the equation in a comment, or that follow a paragraph which does, up to the next text."
    found, near_name = [], False
    for event in sequence:
        if event[0] == "text": near_name = f"({number})" in re.sub(r"\$\$.+?\$\$", "", event[1], flags=re.S)
        if event[0] == "code" and event[1].check and (near_name or re.search(rf"#.*\({re.escape(number)}\)", event[1].text)): found.append(event[1])
    return found


def functions(cells, checks, exported):
    "Names to show: what the cells define, the module's own first; else what the checks call of the library."
    defined = [code.module + name for code in cells if not code.folded for name in code.defined if not name.startswith("check_")]
    ours = [name for name in defined if "." in name] or [f"{exported[name]}.{name}" for code in checks for name in code.used if name in exported]
    return [f"`{name}`" for name in dict.fromkeys(ours or defined)]


def drawn_by(cells, exported):
    "Functions behind a section's pictures: the library's that it defines or calls, else its own that the pictures' cells call."
    pictures = [code for code in cells if code.picture]
    ours = functions(cells, cells, exported)
    if any("." in name for name in ours): return [name for name in ours if "." in name]
    own = {name for code in cells for name in code.defined}
    return [f"`{name}`" for name in dict.fromkeys(name for code in pictures for name in code.used if name in own)]


# ---- what is written

def pieces(text, separator):
    "Split at `separator` (a regular expression) outside of braces, `\\left ... \\right` and environments."
    parts, depth, start = [], 0, 0
    pattern = re.compile(rf"(?P<open>\\left(?![a-z])|\\begin\b|(?<!\\){{)|(?P<close>\\right(?![a-z])|\\end\b|(?<!\\)}})|(?P<sep>{separator})")
    for m in pattern.finditer(text):
        if m["sep"] is None: depth += 1 if m["open"] else -1
        elif depth == 0: parts.append(text[start:m.start()]); start = m.end()
    return parts + [text[start:]]


def visible(latex):
    "About how many characters are seen."
    unseen = r"\\color\{[^}]*\}|\\(?:text|operatorname|math\w+|underbrace|overline|left|right|[bB]igg?[lr]?)(?![a-z])|\\[,;!]"
    return len(re.sub(r"[{}\s^_]", "", re.sub(r"\\[A-Za-z]+", "x", re.sub(unseen, "", latex))))


def short(latex, limit=48):
    "A display as one line for a table: whole where it is short, else its beginning."
    text = re.sub(r"\\tag\{[^}]*\}", "", latex)
    text = re.sub(r"\\begin\{(aligned|gathered)\}(.*)\\end\{\1\}", r"\2", text, flags=re.S)
    text = re.sub(r"\\(?:,|;|\s)*$", "", " ".join(text.split())).strip(" .,")
    rows = [" ".join(piece.replace("&", " ").split()) for row in pieces(text, r"\\\\") for piece in pieces(row, r"&& ?\\text\{[^}]*\}|\\qquad|\\quad")]
    rows = [re.sub(r"(?:\\[;,!]|\s|[.,;])+$", "", row) for row in rows if row.strip(" .,;\\")]
    kept = rows[0]
    if visible(kept) > limit:
        relation = r"\\approx(?![a-z])|\\propto|\\leftarrow|\\longrightarrow|\\lesssim|\\[lg]e(?![a-z])|\\sim(?![a-z])|=:?"
        left = pieces(kept, relation)[0]
        kept = kept if len(left) == len(kept) else left + re.match(rf"\s*({relation})", kept[len(left):])[1] + r"\ \dots"
    else:
        for before, row in zip(rows, rows[1:]):
            word = re.compile(r"\\text\{[^}]*\}(?!\s*=)")                 # "where", "for all i": no comma beside it
            loose = word.fullmatch(before) or before.endswith((r"\Rightarrow", r"\longrightarrow")) or word.match(row)
            whole = visible(kept + row) <= limit
            kept += (r"\ " if loose else r",\ " if not whole else r",\quad ") + (row if whole else r"\dots")
            if not whole: break
    kept = re.sub(r"\\\|", r"\\Vert ", kept)
    return "$" + re.sub(r"(?<!\\)\|", r"\\vert ", kept) + "$"


def in_table(code): return "`" + code.replace("`", "'").replace("|", r"\|") + "`"


def described(checks, how):
    line = checks[0].check
    line = line if len(line) <= 72 else line[:70] + " …"
    more = f", and {len(checks) - 1} more" if len(checks) > 1 else ""
    return in_table(line) + more + {"place": "", "use": " (by use)", "name": " (by name)"}[how]


def title(cells): return re.match(r"#\s+(.+)", source(cells[0]))[1].strip()


def build(notebooks, exported, gaps=KNOWN_GAPS):
    "(cell id -> markdown, problems, rows): `rows` has a dict for each equation. `notebooks` as `read` gives them."
    problems, rows, tables, sequences = [], [], {}, {}
    for name, cells in notebooks.items():
        sequence = sequences[name] = events(cells, problems, name)
        heading, expected, lines = title(cells), 0, []
        for at, event in enumerate(sequence):
            if event[0] == "heading": heading = event[2]
            if event[0] != "tag": continue
            number, expected = event[1], expected + 1
            if number in {row["number"] for row in rows}: problems.append(f"{name}: the tag ({number}) is there twice")
            elif number != f"{int(name[:2])}.{expected}": problems.append(f"{name}: the tag ({number}) stands where ({int(name[:2])}.{expected}) is expected")
            cells_here = cells_after(sequence, at)
            defined = {name for code in cells_here if not code.folded for name in code.defined}
            rest = [e[1] for e in sequence[at:] if e[0] == "code" and e[1] not in cells_here and e[1].check and defined & set(e[1].used)]
            how, checks = next(((how, found) for how, found in (("place", [c for c in cells_here if c.check]), ("use", rest[:1]), ("name", named(sequence, number)[:1]))
                                if found), ("", []))
            if not checks and number not in gaps: problems.append(f"{name}: equation ({number}), in the section {heading!r}, has no check")
            if checks and number in gaps: problems.append(f"{name}: equation ({number}) has a check now: take it out of KNOWN_GAPS in .ci/map.py")
            names = functions(cells_here, checks, exported)
            rows.append(dict(number=number, notebook=name, section=heading, how=how, functions=names, at=at))
            check = described(checks, how) if checks else "none: " + gaps.get(number, "a gap")
            lines.append(f"| ({number}) | {short(event[2])} | [{heading}]({name}.ipynb) | {', '.join(names[:4]) or 'written out'} | {check} |")
        if lines:
            tables[f"map-{name[:2]}"] = "\n".join([f"## {name[:2]} {title(cells)}", "", "| | equation | section | function | check |", "|---|---|---|---|---|", *lines])

    tags = {row["number"] for row in rows}
    for name, cells in notebooks.items():
        for number in sorted(set(cited(cells)) - tags): problems.append(f"{name}: names ({number}), an equation that is not there")

    lines = []
    for label, meaning, given in PAPER:
        equation = label.startswith("eq:")
        if equation:
            hits = [(name, at) for name, sequence in sequences.items() for at, event in enumerate(sequence) if event == ("label", label)][:1]
            row = next((row for name, at in hits for row in reversed(rows) if row["notebook"] == name and row["at"] < at), None)
            if row is None: problems.append(f"the paper's {label} has no place: no numbered equation is followed by its name"); continue
            place, where, names = f"({row['number']})", row, row["functions"]
            if not row["how"]: problems.append(f"the paper's {label}, our ({row['number']}), has no check")
            check = next(line for line in tables[f"map-{row['notebook'][:2]}"].splitlines() if line.startswith(f"| ({row['number']}) ")).split(" | ")[-1].strip(" |")
        else:
            headings = [(name, at) for name, sequence in sequences.items() for at, e in enumerate(sequence) if e[0] == "heading"]
            hits = [(n, at) for n, at in headings if re.match(rf"{label}\b", sequences[n][at][2])] or [(n, at) for n, at in headings if given == (n, sequences[n][at][2])]
            if len(hits) != 1: problems.append(f"the paper's {label} has {len(hits)} places, one section must carry its name" + (f" or be {' '.join(given)!r}" if given else "")); continue
            name, at = hits[0]
            cells_here = section(sequences[name], at)
            checks = [code for code in cells_here if code.check]
            names = drawn_by(cells_here, exported) if label.startswith("Figure") else functions(cells_here, checks, exported)
            where, place = dict(notebook=name, section=sequences[name][at][2]), "picture" if label.startswith("Figure") else "step"
            if place == "picture" and not any(code.picture for code in cells_here): problems.append(f"the paper's {label}: {name}, {where['section']!r} has no stored picture")
            if not names: problems.append(f"the paper's {label}: {name}, {where['section']!r} has no function")
            if not checks and label not in gaps: problems.append(f"the paper's {label}: {name}, {where['section']!r} has no check")
            if checks and label in gaps: problems.append(f"the paper's {label} has a check now: take it out of KNOWN_GAPS in .ci/map.py")
            check = described(checks, "place") if checks else "none: " + gaps.get(label, "a gap")
        lines.append(f"| {f'`{label}`' if equation else label} | {meaning} | {place} | [{where['section']}]({where['notebook']}.ipynb) | {', '.join(names[:4]) or 'written out'} | {check} |")
    tables = {"map-paper": "\n".join(["## The paper's labels", "", "| label | what it is | ours | section | function | check |", "|---|---|---|---|---|---|", *lines])} | tables
    return tables, problems, rows


def stored(path):
    return {cell.get("id"): source(cell) for cell in json.loads(Path(path).read_text(encoding="utf-8"))["cells"]} if Path(path).exists() else {}


def compare(tables, path):
    "Problems: the cells of the map's notebook that differ from what the notebooks say."
    have = stored(path)
    return [f"map.ipynb: {name} is out of date, `python .ci/map.py --write` renews it" for name in tables if have.get(name) != tables[name]] + \
           [f"map.ipynb: {name} belongs to no notebook" for name in have if str(name).startswith("map-") and name not in tables and name != "map-check"]


def write(tables, path):
    "Put the tables into the map's notebook, before its cell `map-check`, in order; everything else stays."
    book = json.loads(Path(path).read_text(encoding="utf-8"))
    kept = [cell for cell in book["cells"] if not str(cell.get("id")).startswith("map-") or cell["id"] == "map-check"]
    at = next(i for i, cell in enumerate(kept) if cell["id"] == "map-check")
    made = [dict(cell_type="markdown", id=name, metadata={}, source=text.splitlines(keepends=True)) for name, text in tables.items()]
    book["cells"] = kept[:at] + made + kept[at:]
    Path(path).write_text(json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def all_problems(root=ROOT):
    tables, problems, _ = build(read(root / "nbs"), library(root))
    return problems + compare(tables, root / "nbs/map.ipynb")


if __name__ == "__main__":
    made, wrong, equations = build(read(ROOT / "nbs"), library())
    if "--write" in sys.argv[1:]: write(made, ROOT / "nbs/map.ipynb")
    wrong += compare(made, ROOT / "nbs/map.ipynb")
    gaps = f", but {', '.join(KNOWN_GAPS)}" if KNOWN_GAPS else ""
    print("\n".join(wrong) or f"{len(equations)} equations and {len(PAPER)} labels of the paper: each has a section and a check{gaps}")
    sys.exit(bool(wrong))
