"""README.md from nbs/index.ipynb: its text, its visible code, and what that code printed.

    python tools/readme.py            write README.md
    python tools/readme.py --check    exit code 1 when it is out of date

Links and pictures of the notebook are relative to nbs/; in README.md, to the top of the repository.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Made from nbs/index.ipynb by tools/readme.py: change the notebook, not this file. -->"


def text_of(output: dict) -> str:
    "What an output shows as plain text; of a picture, nothing."
    data = output.get("data", {})
    if any(kind.startswith("image/") for kind in data):
        return ""
    return "".join(output.get("text", data.get("text/plain", [])))


def relinked(markdown: str) -> str:
    "Links of a page in nbs/ for a page one folder above."
    return re.sub(r"\]\((?!\w+:|#|/)([^)\s]+)\)", lambda m: f"]({above(m[1])})", markdown)


def above(target: str) -> str:
    return target[3:] if target.startswith("../") else f"nbs/{target}"


def readme(cells: list[dict]) -> str:
    parts = []
    for cell in cells:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(relinked(source))
            continue
        directives = re.findall(r"^#\|\s*(.+?)\s*$", source, re.M)
        code = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip()
        if "hide" in directives or "include: false" in directives:
            continue
        if code and "echo: false" not in directives:
            parts.append(f"```python\n{code}\n```")
        printed = "".join(map(text_of, cell["outputs"])).rstrip()
        if printed:
            parts.append("\n".join(f"    {line}".rstrip() for line in printed.split("\n")))
    title, description, *rest = re.split(r"\n\n+", "\n\n".join(parts), maxsplit=2)
    return "\n\n".join([title, NOTE, description.removeprefix("> "), *rest]) + "\n"


if __name__ == "__main__":
    cells = json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]
    wanted, path = readme(cells), ROOT / "README.md"
    if "--check" in sys.argv[1:]:
        same = path.read_text(encoding="utf-8") == wanted
        print("README.md is what nbs/index.ipynb says" if same else "README.md: run `python tools/readme.py`")
        sys.exit(not same)
    path.write_text(wanted, encoding="utf-8")
