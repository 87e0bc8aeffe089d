"""The map from equations and the paper's labels to section, function and check, made from markers.

    python tools/map.py            compare nbs/reference/map.ipynb with the notebooks
    python tools/map.py --write    renew its tables

Exit code 1, and a line a problem, when something is wrong.
A numbered equation is a display `$$ ... \\tag{n.k} $$`. What checks it says so in a comment of its own line:

    # checks (2.8): population_kl
    # checks (2.8), (2.9): population_kl, small_batch_bias
    # checks (1.10), eq:ELBO_KL: kl_to_standard_normal
    # checks Figure 4: variants

After the colon stand the functions of the library, used in that notebook, that compute what is checked; none
where the cell writes the formula out. The cell must assert something: `assert`, a call of `test_*` or
`assert_*`, or of a function of the notebook that does so. Numbers of a chapter run from n.1 without a gap,
over all notebooks.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAP = "reference/map"
PAPER = {
    "eq:ELBO_KL": "the KL of a diagonal Gaussian to the prior, in closed form",
    "eq:ELBO_l": "the likelihood: a weighted mean absolute error",
    "Figure 1": "the scheme of a VAE",
    "Figure 2": "the global posterior from the individual ones",
    "Figure 3": "encoder, sampler, decoder",
    "Figure 4": "generated variants: two latents moved by multiples of their posterior standard deviations",
    "Figure 5": "transitions between two images, both trainings",
    "Figure 6": "not known to us; ours are faces generated from the prior",
    "Algorithm 1": "one training step; its wording is not known to us",
}
LABEL = r"\(\d+\.\d+\)|eq:\w+|Figure \d+|Algorithm \d+"
MARKER = re.compile(rf"# checks ((?:{LABEL})(?:, (?:{LABEL}))*)(?:: ([\w., ]+))?")


@dataclass
class Check:
    "A marker: the label, the functions, the notebook and section, and the cell's first assertion."

    label: str
    functions: list[str]
    notebook: str
    section: str
    line: str


@dataclass
class Equation:
    number: str
    latex: str
    notebook: str
    section: str


# ---- reading


def source(cell: dict) -> str:
    return "".join(cell["source"])


def read(folder: Path = ROOT / "nbs") -> dict[str, list[dict]]:
    "All notebooks but the map: `learn/01_elbo` -> its cells."
    paths = sorted(path for path in folder.rglob("*.ipynb") if "/." not in str(path))
    names = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
    return {
        name: json.loads(path.read_text(encoding="utf-8"))["cells"]
        for name, path in names.items()
        if name != MAP
    }


def library(root: Path = ROOT) -> dict[str, list[str]]:
    "Every function and class of the library, and its methods: name -> the modules that define it."
    found: dict[str, list[str]] = {}
    for path in sorted((root / "vae_tutorial").rglob("[!_]*.py")):
        module = ".".join(path.relative_to(root / "vae_tutorial").with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            found.setdefault(node.name, []).append(module)
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, ast.FunctionDef):
                    found.setdefault(f"{node.name}.{inner.name}", []).append(module)
    return found


def parsed(cell: dict) -> ast.Module:
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in source(cell).split("\n")]
    return ast.parse("\n".join(lines))


def asserts(node: ast.AST, checkers: set[str]) -> bool:
    call = getattr(node, "func", None)
    name = getattr(call, "id", getattr(call, "attr", ""))
    tests = name.startswith(("test_", "assert_")) or (isinstance(call, ast.Name) and name in checkers)
    return isinstance(node, ast.Assert) or tests


def checkers_of(trees: list[ast.Module]) -> set[str]:
    "Names of a notebook's own functions that assert, by themselves or through another."
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found: set[str] = set()
    while True:
        new = {f.name for f in functions if any(asserts(node, found) for node in ast.walk(f))} - found
        if not new:
            return found
        found |= new


def first_check(tree: ast.Module, checkers: set[str]) -> str:
    "The first statement of a cell that asserts, as one line; the bodies of functions do not count."
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
        if inner:
            todo = inner + todo
        elif any(asserts(part, checkers) for part in ast.walk(node)):
            return " ".join(ast.unparse(node).split())
    return ""


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def scan(name: str, cells: list[dict], known: dict[str, list[str]]) -> tuple[list, list, list]:
    "The equations, checks and problems of one notebook."
    equations, checks, problems, section = [], [], [], ""
    trees = {index: parsed(cell) for index, cell in enumerate(cells) if cell["cell_type"] == "code"}
    checkers = checkers_of(list(trees.values()))
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    used = {getattr(node, key) for node in nodes for key in ("id", "attr") if hasattr(node, key)}
    used |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for index, cell in enumerate(cells):
        text = source(cell)
        if cell["cell_type"] == "markdown":
            displays = r"\$\$(?P<latex>.+?)\$\$"
            for m in re.finditer(rf"^#+ +(?P<heading>[^\n]+)$|{displays}", without_fences(text), re.M | re.S):
                section = m["heading"].strip() if m["heading"] else section
                for number in re.findall(r"\\tag\{([^}]*)\}", m["latex"] or ""):
                    equations.append(Equation(number, m["latex"], name, section))
            tags = text.count(r"\tag{")
            inside = sum(part.count(r"\tag{") for part in re.findall(displays, text, re.S))
            if tags != inside:
                problems.append(f"{name}: a tag stands outside $$ ... $$, in the section {section!r}")
        for line in (
            re.findall(r"^# checks (?:\(|eq:|Figure|Algorithm).*$", text, re.M) if index in trees else []
        ):
            marker = MARKER.fullmatch(line)
            if not marker:
                problems.append(f"{name}: {line!r} cannot be read")
                continue
            functions = marker[2].split(", ") if marker[2] else []
            checked = first_check(trees[index], checkers)
            if not checked:
                problems.append(f"{name}: the cell with {line!r} asserts nothing")
            for function in functions:
                if function not in known:
                    problems.append(f"{name}: {line!r} names {function}, which the library does not have")
                elif function.split(".")[-1] not in used:
                    problems.append(f"{name}: {line!r} names {function}, which the notebook does not use")
            checks += [
                Check(label, functions, name, section, checked) for label in re.findall(LABEL, marker[1])
            ]
    return equations, checks, problems


def cited(cells: list[dict]) -> set[str]:
    "Numbers of equations that the prose names, from (1.1) on; (0.5) may be a plain number."
    prose = "\n".join(without_fences(source(cell)) for cell in cells if cell["cell_type"] == "markdown")
    prose = re.sub(r"\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`", "", prose, flags=re.S)
    groups = re.findall(r"\(((?:[1-9]\.\d+(?:, | and )?)+)\)", prose)
    return {number for group in groups for number in re.findall(r"\d\.\d+", group)}


def number_problems(equations: list[Equation]) -> list[str]:
    "Tags that are there twice, belong to another notebook's chapter, or leave a gap."
    problems, numbers = [], [equation.number for equation in equations]
    for number in sorted({n for n in numbers if numbers.count(n) > 1}):
        problems.append(f"the tag ({number}) is there twice")
    chapters: dict[str, set[str]] = {}
    for equation in equations:
        chapters.setdefault(equation.number.split(".")[0], set()).add(equation.number)
        lesson = re.match(r"learn/(\d+)_", equation.notebook)
        if lesson and int(lesson[1]) != int(equation.number.split(".")[0]):
            problems.append(f"{equation.notebook}: the tag ({equation.number}) is of another lesson")
    for chapter, found in chapters.items():
        wanted = {f"{chapter}.{k + 1}" for k in range(len(found))}
        problems += [f"the tag ({number}) is missing" for number in sorted(wanted - found)]
    return problems


# ---- writing


def pieces(text: str, separator: str) -> list[str]:
    "Split at `separator` (a regular expression) outside of braces, `\\left ... \\right` and environments."
    parts, depth, start = [], 0, 0
    opening, closing = r"\\left(?![a-z])|\\begin\b|(?<!\\){", r"\\right(?![a-z])|\\end\b|(?<!\\)}"
    for m in re.finditer(rf"(?P<open>{opening})|(?P<close>{closing})|(?P<sep>{separator})", text):
        if m["sep"] is None:
            depth += 1 if m["open"] else -1
        elif depth == 0:
            parts.append(text[start : m.start()])
            start = m.end()
    return [*parts, text[start:]]


def visible(latex: str) -> int:
    "About how many characters are seen."
    words = r"text|operatorname|math\w+|underbrace|overline|left|right|[bB]igg?[lr]?"
    unseen = rf"\\color\{{[^}}]*\}}|\\(?:{words})(?![a-z])|\\[,;!]"
    return len(re.sub(r"[{}\s^_]", "", re.sub(r"\\[A-Za-z]+", "x", re.sub(unseen, "", latex))))


def short(latex: str, limit: int = 48) -> str:
    "The beginning of a display, for a table: up to the first relation where it is long."
    text = re.sub(r"\\tag\{[^}]*\}", "", latex)
    text = re.sub(r"\\begin\{(aligned|gathered)\}(.*)\\end\{\1\}", r"\2", text, flags=re.S)
    text = " ".join(" ".join(pieces(text, "&")).split()).strip(" .,")
    first = pieces(text, r"\\\\|\\qquad|\\quad")[0]
    first = re.sub(r"(?:\\[;,!]|\s|[.,;])+$", "", first)
    if visible(first) > limit:
        relation = r"\\approx(?![a-z])|\\propto|\\leftarrow|\\lesssim|\\[lg]e(?![a-z])|\\sim(?![a-z])|=:?"
        left = pieces(first, relation)[0]
        if len(left) < len(first):
            sign = re.match(rf"\s*({relation})", first[len(left) :])
            first = left + (sign[1] if sign else "") + r"\ \dots"
    elif first != text:
        first += r",\ \dots"
    return "$" + re.sub(r"(?<!\\)\|", r"\\vert ", first.replace(r"\|", r"\Vert ")) + "$"


def slug(heading: str) -> str:
    "The anchor of a heading on the site, as Pandoc makes it."
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[^\w\s.-]", "", text.lower().replace("`", "").replace("*", ""))
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", text.strip()))


def link(notebook: str, section: str) -> str:
    target = os.path.relpath(f"{notebook}.ipynb", os.path.dirname(MAP)).replace(os.sep, "/")
    return f"[{section}]({target}#{slug(section)})"


def row(label: str, what: str, place: str, checks: list[Check], known: dict[str, list[str]]) -> str:
    functions = [f"`{known[f][0]}.{f}`" for check in checks for f in check.functions if f in known]
    line = checks[0].line if checks else "none"
    line = line if len(line) <= 72 else line[:70] + " …"
    more = f", and {len(checks) - 1} more" if len(checks) > 1 else ""
    code = "`" + line.replace("`", "'").replace("|", r"\|") + "`"
    names = ", ".join(dict.fromkeys(functions)) or "written out"
    return f"| {label} | {what} | {place} | {names} | {code}{more} |"


def build(
    notebooks: dict[str, list[dict]], known: dict[str, list[str]]
) -> tuple[dict[str, str], list[str], list[Equation]]:
    "The map's cells (id -> Markdown), the problems, the equations."
    equations: list[Equation] = []
    checks: list[Check] = []
    problems: list[str] = []
    for name, cells in notebooks.items():
        new_equations, new_checks, new_problems = scan(name, cells, known)
        equations += new_equations
        checks += new_checks
        problems += new_problems
    problems += number_problems(equations)
    numbers = {equation.number for equation in equations}
    for name, cells in notebooks.items():
        problems += [
            f"{name}: names ({n}), an equation that is not there" for n in sorted(cited(cells) - numbers)
        ]
    for check in checks:
        if check.label.strip("()") not in numbers | set(PAPER):
            problems.append(f"{check.notebook}: a marker names {check.label}, which is not there")

    def of(label: str, notebook: str = "") -> list[Check]:
        found = [check for check in checks if check.label == label]
        return sorted(found, key=lambda check: check.notebook != notebook)

    head = "| {} | {} | section | function | check |\n|---|---|---|---|---|"
    lines = [head.format("label", "what it is")]
    for label, what in PAPER.items():
        found = of(label)
        if not found:
            problems.append(f"the paper's {label} has no marker")
            continue
        where = ", ".join(dict.fromkeys(link(check.notebook, check.section) for check in found))
        lines.append(row(f"`{label}`" if ":" in label else label, what, where, found, known))
    tables = {"map-paper": "\n".join(["## The paper's labels", "", *lines])}

    chapters: dict[int, list[tuple[int, str]]] = {}
    for equation in equations:
        found = of(f"({equation.number})", equation.notebook)
        if not found or found[0].notebook != equation.notebook:
            problems.append(f"{equation.notebook}: the equation ({equation.number}) has no marker there")
        chapter, place = map(int, equation.number.split("."))
        where = link(equation.notebook, equation.section)
        text = row(f"({equation.number})", short(equation.latex), where, found, known)
        chapters.setdefault(chapter, []).append((place, text))
    titles = {
        int(name[6:8]): re.sub(r"^#\s*(\d\d\s+)?", "", source(cells[0]).split("\n")[0])
        for name, cells in notebooks.items()
        if re.match(r"learn/\d\d_", name)
    }
    for chapter, rows in sorted(chapters.items()):
        heading = f"## {chapter:02} {titles.get(chapter, 'Benchmark')}"
        tables[f"map-{chapter:02}"] = "\n".join(
            [heading, "", head.format("", "equation"), *(text for _, text in sorted(rows))]
        )
    return tables, problems, equations


def compare(tables: dict[str, str], path: Path) -> list[str]:
    "Problems: cells of the map's notebook that differ from what the notebooks say."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    have = {cell["id"]: source(cell) for cell in cells if cell["id"].startswith("map-")}
    have.pop("map-check", None)
    stale = sorted(name for name in tables.keys() | have.keys() if have.get(name) != tables.get(name))
    return [f"{MAP}: {name} is out of date, `python tools/map.py --write` renews it" for name in stale]


def write(tables: dict[str, str], path: Path) -> None:
    "Put the tables before the cell `map-check` of the map's notebook."
    book = json.loads(path.read_text(encoding="utf-8"))
    kept = [c for c in book["cells"] if not c["id"].startswith("map-") or c["id"] == "map-check"]
    at = next(index for index, cell in enumerate(kept) if cell["id"] == "map-check")
    made = [
        dict(cell_type="markdown", id=name, metadata={}, source=text.splitlines(keepends=True))
        for name, text in tables.items()
    ]
    book["cells"] = kept[:at] + made + kept[at:]
    text = json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    page = ROOT / f"nbs/{MAP}.ipynb"
    made, wrong, found = build(read(), library())
    if "--write" in sys.argv[1:]:
        write(made, page)
    wrong += compare(made, page)
    sound = f"{len(found)} equations and {len(PAPER)} labels of the paper: each has a section and a check"
    print("\n".join(wrong) or sound)
    sys.exit(bool(wrong))
