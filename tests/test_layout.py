"""The project's promises about itself: public names, the map, one set of versions."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import workbench

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def name_of(requirement: str) -> str:
    return re.split(r"[\s<>=!;\[]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_public_names():
    assert sorted(workbench.__all__) == [
        "Answer", "Audit", "Backtest", "Diff", "Engine", "Feed", "FlashQuery", "Moment", "Session",
        "Tick", "WorkbenchError", "current_engine", "dashboard", "diff", "row", "version",
    ]  # fmt: skip
    for name in workbench.__all__:
        assert callable(getattr(workbench, name))  # and no module of that name


def module_map() -> str:
    """The map of `workbench/README.md`: every module with the first line of its docstring."""
    rows = []
    for path in sorted((ROOT / "workbench").rglob("*.py")):
        if path.name == "__init__.py":
            continue
        name = path.relative_to(ROOT / "workbench")
        (first, *_) = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
        rows.append(f"| `{name}` | {first} |")
    return "\n".join(rows)


def test_the_map_names_every_module_as_it_names_itself():
    """If this fails, put the printed table into ``workbench/README.md``."""
    print(module_map())  # noqa: T201
    assert module_map() in (ROOT / "workbench/README.md").read_text()


def test_kernels_is_not_a_package():
    """With an ``__init__.py`` it would shadow Hugging Face's package of that name."""
    assert not (ROOT / "kernels/__init__.py").exists()


def test_every_requirement_is_pinned_once():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    names = [name_of(line) for line in lines if line and not line.startswith("#")]
    assert len(set(names)) == len(names)
    project = PYPROJECT["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    assert {name_of(r) for r in wanted} - set(names) == {"triton"}
    assert "torch==2.13.0" in lines


def pins() -> dict[str, str]:
    """The version of each package in the constraints."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split(";")[0].strip().split("==") for line in lines if "==" in line)
    return {name_of(name): version for name, version in pairs}


def installed_as_pinned() -> list[metadata.Distribution]:
    """What is installed here in just the version of the constraints, apart from torch's builds."""
    wanted = pins() | {"torch": ""}
    found = [d for d in metadata.distributions() if d.name]
    return [d for d in found if wanted.get(name_of(d.name)) == d.version]


def test_what_comes_with_the_requirements_is_pinned_too():
    """Of what is not pinned pip tries every version there ever was, if one cannot be had."""
    missing = {
        f"{found.name} requires {needed.name}"
        for found in installed_as_pinned()
        for needed in map(Requirement, found.requires or ())
        if not needed.marker or needed.marker.evaluate({"extra": ""})
        if name_of(needed.name) not in pins()
    }
    assert not missing


def test_every_pin_runs_on_the_oldest_python():
    """Debian 12 has 3.11.2, and there is a package that wants 3.11.5."""
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=") + ".0"
    too_new = {
        f"{found.name} {found.version} wants Python {wanted}"
        for found in installed_as_pinned()
        if (wanted := found.metadata.get("Requires-Python"))
        if not SpecifierSet(wanted).contains(oldest)
    }
    assert not too_new


def test_conda_installs_the_same_versions():
    text = (ROOT / "environment.yml").read_text()
    assert "- -c constraints.txt" in text and "- -e .[dev]" in text
    listed = re.findall(r"^  - (\S+)", text.split("dependencies:")[1], flags=re.MULTILINE)
    (python,) = [item for item in listed if item.startswith("python=")]
    lowest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert tuple(map(int, python.removeprefix("python=").split("."))) >= tuple(
        map(int, lowest.split("."))
    )
    # Nothing comes from conda that the constraints pin.
    assert {name_of(item) for item in listed} == {"python", "pip", "pip:"}


def test_the_engine_imports_without_the_notebook_packages():
    code = (
        "import sys\n"
        "for name in ('ipywidgets', 'plotly', 'polars', 'pandas', 'IPython'):\n"
        "    sys.modules[name] = None\n"
        "import workbench.engine.engine, workbench.front, workbench.testing\n"
        "engine = workbench.Engine(workbench.testing.tiny_model(), cells=256)\n"
        "session = engine.open('s', cells=100)\n"
        "session.push({'a': 1})\n"
        "assert session.ask('q?', max_tokens=2).done\n"
        "engine.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_no_file_names_a_machine():
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    if not any(tracked):
        return  # not a checkout
    for name in filter(None, tracked):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yml", ".ipynb", ".json", ".cfg"}:
            found = re.search(r"/(home|root|Users|work)/\w+", path.read_text())
            assert not found or path == Path(__file__), f"{name}: {found}"
