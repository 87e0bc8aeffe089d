"""What no notebook can check of itself: versions agree, stored outputs are sound, links lead somewhere."""

import json
import re
import sys
from configparser import ConfigParser
from pathlib import Path

from map import slug

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|Users|work|mnt)/\w")  # a path of somebody's machine


def source(cell: dict) -> str:
    return "".join(cell["source"])


def markdown(cells: list[dict]) -> str:
    text = "\n\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(cells: list[dict]) -> set[str]:
    "Names that a link to this notebook may end in: of its headings, and of explicit `{#names}`."
    text = markdown(cells)
    return {slug(h) for h in re.findall(r"^#+ +(.+)$", text, re.M)} | set(re.findall(r"\{#([\w-]+)\}", text))


def stored_problems(path: Path, cells: list[dict]) -> list[str]:
    "What is wrong with a notebook's file and its outputs."
    problems = []
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    size = path.stat().st_size / 1e6
    if not outputs:
        problems.append("no stored output")
    if size > 1.5:
        problems.append(f"{size:.1f} MB, at most 1.5")
    if any(output["output_type"] == "error" for output in outputs):
        problems.append("a stored output is an error")
    if MACHINE.search(json.dumps(outputs)):
        problems.append("a stored output names a path of a machine")
    if any(not isinstance(cell["source"], list) for cell in cells):
        problems.append("a cell's source must be a list of lines")
    for cell in code:
        directives = " ".join(line for line in cell["source"] if line.startswith("#|"))
        if "export" in directives and "code-fold" in directives:
            problems.append("code-fold on an exported cell, where nbdev writes its own")
    for wrong in (r"\eqref", "{#eq-"):
        if wrong in markdown(cells):
            problems.append(f"{wrong} does not render everywhere")
    return problems


def link_problems(path: Path, books: dict[Path, list[dict]]) -> list[str]:
    "Links of a notebook to files and headings that are not there, or, from the site, to what is not on it."
    problems = []
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)\s#]*)(?:#([^)\s]+))?\)", markdown(books[path])):
        other = (path.parent / target).resolve() if target else path
        if not other.exists():
            problems.append(f"links to {target}, which does not exist")
        elif anchor and other in books and anchor not in anchors(books[other]):
            problems.append(f"links to {target}#{anchor}, a heading that is not there")
        elif other.parent.name == "tests" and path.parent.name != "tests":
            problems.append(f"links to {target}, which is not on the site")
    return problems


def main() -> list[str]:
    paths = sorted(path for path in NBS.rglob("*.ipynb") if "/." not in str(path.relative_to(ROOT)))
    books = {path: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in paths}
    problems = []
    for path, cells in books.items():
        found = stored_problems(path, cells) + link_problems(path, books)
        problems += [f"{path.relative_to(NBS).as_posix()}: {problem}" for problem in found]

    names = {path.relative_to(NBS).as_posix() for path in paths}
    listed = re.findall(r"- ([\w/]+\.ipynb)", (NBS / "sidebar.yml").read_text(encoding="utf-8"))
    shown = {name for name in names if not name.startswith("tests/")}
    problems += [f"sidebar.yml lacks {name}" for name in sorted(shown - set(listed))]
    problems += [f"sidebar.yml has {name}, which is not there" for name in sorted(set(listed) - shown)]
    problems += [
        f"sidebar.yml has {name} twice" for name in sorted({n for n in listed if listed.count(n) > 1})
    ]
    if not (NBS / "_quarto.yml").is_symlink():
        problems.append("nbs/_quarto.yml must be a link to ../_quarto.yml")

    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    version = parser["DEFAULT"]["version"]
    if f'__version__ = "{version}"' not in (ROOT / "vae_tutorial/__init__.py").read_text(encoding="utf-8"):
        problems.append("vae_tutorial/__init__.py and settings.ini disagree about the version")
    if f"## {version}" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        problems.append(f"CHANGELOG.md has no entry for {version}")
    print("\n".join(problems) or f"{len(paths)} notebooks, their outputs and links: sound")
    return problems


if __name__ == "__main__":
    sys.exit(bool(main()))
