"""What is installed: wheel and sdist hold everything, import light and by their own names; pins satisfy the bounds."""

import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("objectives", "models", "training", "evaluation", "scripts")
HEAVY = ("peft", "bitsandbytes", "datasets", "evaluate", "sklearn", "matplotlib", "transformers.trainer", "accelerate")
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "runs", "out", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
)


def setup():
    """setup.cfg, parsed."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def run(*command, cwd, **env):
    """Output of a command; its errors are shown when it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(command, cwd=cwd, env=environment | env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with the wheel and the sdist, built from a copy: an old build/ folder in the checkout would leak in."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), cwd=folder / "source")
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Folder that holds nothing but the installed wheel."""
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target))
    run(*pip, str(wheel), cwd=target)
    return target


def shipped(folder):
    """Files of a package folder that have to be installed, by their path in the wheel."""
    paths = [path for pattern in ("*.py", "py.typed", "recipes/*.yaml") for path in (ROOT / folder).glob(pattern)]
    return {f"pretrain_zoo/{path.relative_to(ROOT).as_posix()}" for path in paths}


def test_every_folder_with_python_files_is_a_declared_package():
    folders = {path.parent.name for path in ROOT.glob("*/*.py")} - {"tests", "docs", "examples", "benchmarks"}
    packages = set(setup()["options"]["packages"].split())
    assert {f"pretrain_zoo.{folder}" for folder in folders} == packages == {f"pretrain_zoo.{name}" for name in FOLDERS}
    for folder in FOLDERS:
        assert (ROOT / folder / "py.typed").exists() and (ROOT / folder / "__init__.py").exists()
        assert (ROOT / "typings/pretrain_zoo" / folder).resolve() == ROOT / folder


def test_wheel_holds_every_file_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set().union(*map(shipped, FOLDERS))
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_sdist_holds_every_file(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {name.removeprefix("pretrain_zoo/") for folder in FOLDERS for name in shipped(folder)}
    assert expected | {"LICENSE", "README.md", "setup.cfg", "pyproject.toml"} <= names


def test_wheel_imports_from_outside_the_checkout(installed, tmp_path):
    # -S -P and an explicit path: the .pth file of an editable install is not read, the working folder not searched.
    libraries = [
        path for path in sys.path if path and Path(path).is_dir() and not Path(path).is_relative_to(ROOT / "tests")
    ]
    libraries = [path for path in libraries if Path(path) != ROOT]
    code = f"""
import sys; sys.path[:0] = {[str(installed), *libraries]!r}
import importlib, json
print(json.dumps({{name: importlib.import_module("pretrain_zoo." + name).__file__ for name in {FOLDERS!r}}}))
"""
    files = json.loads(run(sys.executable, "-I", "-S", "-c", code, cwd=tmp_path))
    assert files == {name: str(installed / "pretrain_zoo" / name / "__init__.py") for name in FOLDERS}


def test_console_scripts_can_be_loaded():
    scripts = setup().get("options.entry_points", "console_scripts", fallback="")
    for line in filter(None, scripts.splitlines()):
        _, target = map(str.strip, line.split("="))
        module, function = target.split(":")
        path = ROOT / module.removeprefix("pretrain_zoo.").replace(".", "/")
        assert re.search(rf"^def {function}\(", path.with_suffix(".py").read_text(), re.MULTILINE), target


def test_objectives_import_light(tmp_path):
    code = f"""
import importlib, pkgutil, sys
import pretrain_zoo.objectives as package
for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f"{{package.__name__}}.{{module.name}}")
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert run(sys.executable, "-c", code, cwd=tmp_path).strip() == "[]"


def requirements():
    """Every requirement of setup.cfg, extras included, by name."""
    parser = setup()
    texts = [parser["options"]["install_requires"], *parser["options.extras_require"].values()]
    found = [Requirement(line) for text in texts for line in text.splitlines() if line]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def pins():
    """Versions of constraints.txt by name."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    matches = [re.fullmatch(r"([\w.-]+)==([\w.!]+)", line) for line in lines]
    assert all(matches), "constraints.txt holds exact versions only, without a local part such as +cpu"
    return {canonicalize_name(match[1]): Version(match[2]) for match in matches if match}


def test_pins_satisfy_the_bounds():
    pinned, required = pins(), requirements()
    for name in required.keys() - {"pretrain-zoo"}:
        assert name in pinned, f"{name} is required and not pinned in constraints.txt"
        assert pinned[name] in required[name].specifier, f"{name} {pinned[name]} is outside {required[name]}"
        assert any(part.operator == ">=" for part in required[name].specifier), f"{name} has no lower bound"
    extras = set(setup()["options.extras_require"]) - {"all"}
    assert required["pretrain-zoo"].extras == extras, "the extra `all` names every other one"


def imported(path):
    """Top-level modules that a file imports absolutely."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def test_every_import_is_a_declared_requirement():
    distributions, required = packages_distributions(), requirements().keys()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")):
        for module in set(imported(path)) - set(sys.stdlib_module_names) - {"pretrain_zoo"}:
            names = {canonicalize_name(name) for name in distributions.get(module, [module])}
            assert names & required, f"{path.relative_to(ROOT)} imports {module}, which setup.cfg does not require"


@pytest.mark.distributed
def test_accelerate_config_joins_two_cpu_processes(tmp_path):
    script = tmp_path / "world.py"
    script.write_text("from accelerate import Accelerator as A; print('world', A().num_processes, flush=True)")
    command = (
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(ROOT / "accelerate_config.yaml"),
    )
    port = ("--num_processes", "2", "--main_process_port", "0")
    output = run(*command, *port, str(script), cwd=tmp_path, ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="")
    assert output.split().count("2") == 2 and "1" not in output.split()
