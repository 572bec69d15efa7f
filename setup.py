"""Packaging: everything that it says is in settings.ini, which nbdev reads too."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


def installed(source: str, target: str) -> list[tuple[str, list[str]]]:
    "Files below `source`, to be installed below `target` of the environment."
    files = sorted(p for p in (here / source).rglob("*") if p.is_file())
    return [(str(Path(target) / p.parent.relative_to(here / source)), [str(p.relative_to(here))]) for p in files]


def described() -> str:
    "The README, its links into the repository written out: a package index shows it, where they would lead nowhere."
    text, home = (here / "README.md").read_text(encoding="utf-8"), cfg["git_url"]
    for kind, where in ((r"!\[", "raw"), (r"(?<!!)\[", "blob")):
        text = re.sub(rf"({kind}[^]\n]*\]\()(?!https?:|mailto:|#)", rf"\1{home}/{where}/{cfg['branch']}/", text)
    return text


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=described(),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    url=cfg["git_url"],
    classifiers=["Framework :: Jupyter", "Programming Language :: Python :: 3"],
    packages=find_packages(include=["bsft_nb", "bsft_nb.*"]),
    package_data={"bsft_nb": ["py.typed"], "bsft_nb.demo": ["*.jsonl"]},
    data_files=[*installed("bsft_nb/labextension", "share/jupyter/labextensions/bsft_nb"), *installed("etc", "etc")],
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={name.removesuffix("_requirements"): cfg[name].split() for name in cfg if name.endswith("_requirements")},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    zip_safe=False,
)
