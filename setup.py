"""Build `vae-tutorial` from `settings.ini`, where alone its name, version and requirements are written."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


def words(key):
    return cfg.get(key, "").split()


def absolute(markdown):
    "A page in the repository as one that can be read elsewhere: links and pictures under `git_url`."
    page = f"{cfg['git_url']}/blob/{cfg['branch']}/"
    raw = page.replace("/blob/", "/raw/")

    def whole(m):
        return f"{m[1]}({raw if m[1].startswith('!') else page}{m[2]})"

    return re.sub(r"(!?\[[^\]]*\])\((?!\w+:|#|/)([^)\s]+)\)", whole, markdown)


minor = int(cfg["min_python"].split(".")[1])
stages = {
    "1": "1 - Planning",
    "2": "2 - Pre-Alpha",
    "3": "3 - Alpha",
    "4": "4 - Beta",
    "5": "5 - Production/Stable",
}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=absolute((here / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    url=cfg["git_url"],
    keywords=cfg["keywords"],
    classifiers=[
        f"Development Status :: {stages[cfg['status']]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{v}" for v in range(minor, 14)),
    ],
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    package_data={cfg["lib_path"]: ["py.typed", "weights/*", "models/*/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=words("requirements"),
    extras_require={
        "notebooks": words("notebooks_requirements"),
        "hub": words("hub_requirements"),
        "onnx": words("onnx_requirements"),
        "dev": [w for kind in ("notebooks", "hub", "onnx", "dev") for w in words(f"{kind}_requirements")],
    },
    entry_points={
        "console_scripts": [line.strip() for line in cfg["console_scripts"].splitlines()],
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
