"""What no notebook can check of itself: versions agree, stored outputs are sound, the site's files are there, the import graph has no cycle,
the map of the equations is up to date."""
import ast
import json
import pathlib
import re
import sys
from configparser import ConfigParser

import map as equations  # .ci/map.py, beside this file

root = pathlib.Path(__file__).parent.parent
parser = ConfigParser(delimiters=["="])
parser.read(root / "settings.ini", encoding="utf-8")
cfg, problems = parser["DEFAULT"], []

notebooks = sorted((root / "nbs").glob("*.ipynb"))
for path in notebooks:
    nb = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in nb["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    if not outputs: problems.append(f"{path.name}: no stored output")
    if path.stat().st_size > 1.5e6: problems.append(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, at most 1.5")
    if any(output["output_type"] == "error" for output in outputs): problems.append(f"{path.name}: a stored output is an error")
    if re.search(r"/(home|root|tmp|Users|work|mnt)/\w", json.dumps(outputs)): problems.append(f"{path.name}: a stored output names a path of a machine")
    if any(not isinstance(cell["source"], list) for cell in nb["cells"]): problems.append(f"{path.name}: a cell's source must be a list of lines")
    for cell in code:
        directives = [line for line in cell["source"] if line.startswith("#|")]
        if any("export" in line for line in directives) and any("code-fold" in line for line in directives):
            problems.append(f"{path.name}: code-fold on an exported cell, where nbdev writes its own")
    text = "".join("".join(cell["source"]) for cell in nb["cells"] if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([\w./-]+\.ipynb)(?:#[\w-]+)?\)", text):
        if not (path.parent / target).exists(): problems.append(f"{path.name}: links to {target}, which does not exist")
    for wrong in (r"\\eqref", r"\{#eq-"):
        if re.search(wrong, text): problems.append(f"{path.name}: {wrong} does not render everywhere")

sidebar = (root / "nbs/sidebar.yml").read_text()
for path in notebooks:
    if path.name not in sidebar: problems.append(f"sidebar.yml lacks {path.name}")

if not (root / "nbs/_quarto.yml").is_symlink(): problems.append("nbs/_quarto.yml must be a link to ../_quarto.yml")
version = re.search(r'__version__ = "(.+)"', (root / "vae_tutorial/__init__.py").read_text())
if not version or version[1] != cfg["version"]: problems.append("vae_tutorial/__init__.py and settings.ini disagree about the version")

# which module may import which: a lower one never imports a higher one
ORDER = "plotting runtime data elbo mixture collapse resnet patchgan training metrics figures commands bench".split()
TORCH_ALONE = {"elbo", "mixture", "collapse", "resnet", "patchgan"}
for path in (root / "vae_tutorial").glob("[!_]*.py"):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module: imported.add("vae_tutorial." * bool(node.level) + node.module)
        if isinstance(node, ast.Import): imported |= {name.name for name in node.names}
    if path.stem not in ORDER: problems.append(f"{path.name}: not in the order of modules"); continue
    ours = {name.split(".")[1] for name in imported if name.startswith("vae_tutorial.")}
    for name in ours:
        if ORDER.index(name) >= ORDER.index(path.stem): problems.append(f"{path.stem} imports {name}, which stands above it")
    if path.stem in TORCH_ALONE:
        others = {name.split(".")[0] for name in imported} - {"torch", "vae_tutorial", "__future__"} - set(sys.stdlib_module_names)
        if others: problems.append(f"{path.stem} imports {', '.join(sorted(others))} beside torch")

problems += equations.all_problems(root)

print("\n".join(problems) or f"{len(notebooks)} notebooks and the package's structure: sound")
sys.exit(bool(problems))
