"""The house's rules: who may import whom, and how large a room may grow."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "bioquant"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Later floors may import earlier ones, never the other way round.
FLOORS = [
    {"shown"},
    {"errors", "records", "places", "embedding", "launching", "quant_schema", "task_schema"},
    {"config", "endpoints", "network", "foreign"},
    {"validation", "hardware", "privacy"},
    {"statistics"},
    {"metrics"},
    {"trivial"},
    {"tasks"},
    {"prompts", "quantization", "recipe_checks", "checkpoints", "published", "evaluate_metrics", "layer_bytes"},
    {"plan", "datasets", "compose", "grid", "progress", "journal", "timeline", "attempts", "files"},
    {"evidence", "recipe", "calibration"},
    {"compare", "selection"},
    {"study", "wording"},
    {"recommend"},
    {"models", "engine", "measure", "tracking", "tables", "plots"},
    {"memory", "answering", "estimates"},
    {"capacity"},
    {"loading"},
    {"run", "runs", "report"},
    {"sweep", "inspection", "lengths", "serving"},
    {"costs", "registry"},
    {"forecast"},
    {"expected"},
    {"verbs"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

ONLY_IN = {
    "torch": {"models", "engine", "measure", "memory", "embedding", "verbs.doctor"},
    "mlflow": {"tracking", "runs", "registry", "serving.model", "serving.model_code"},
    "hydra": {"compose", "verbs.run"},
    "bitsandbytes": {"models"},
    "fastapi": {"serving.app", "serving.server"},
    "uvicorn": {"serving.server"},
}

MOST_MODULES_FOR_HELP = 80
"""Modules that `bioquant --help` may load beyond those of a bare Python; torch alone has over a thousand."""

LONGEST_FUNCTION = 40
LONGEST_MODULE = 400


def name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def room(path: Path) -> str:
    return name(path).split(".")[0]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    ours = {imported.split(".")[1] for imported in imports(path) if imported.startswith("bioquant.")}
    return ours & FLOOR.keys()


def test_every_room_has_its_floor() -> None:
    assert {room(path) for path in MODULES} - {"__init__", "__main__", "demo"} == FLOOR.keys()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_down(path: Path) -> None:
    if room(path) in FLOOR:
        above = {other for other in rooms_imported(path) if FLOOR[other] > FLOOR[room(path)]}
        assert not above


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_heavy_library_is_imported_only_where_it_belongs(path: Path) -> None:
    used = {imported.split(".")[0] for imported in imports(path)}
    for library, places in ONLY_IN.items():
        if library in used:
            assert any(name(path) == place or name(path).startswith(f"{place}.") for place in places), library


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_pickle_no_eval_no_remote_code(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}
    modules = {imported.split(".")[0] for imported in imports(path)}
    assert not modules & {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not attributes & {"read_pickle", "to_pickle", "unsafe_load", "full_load", "UnsafeLoader", "FullLoader"}
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        assert ast.unparse(node.func) not in {"torch.load", "yaml.load", "os.system"}
        assert not {word.arg for word in node.keywords if ast.unparse(word.value) == "True"} & {"allow_pickle", "shell"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_rooms_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def loaded(code: str) -> set[str]:
    """The modules that a fresh Python has loaded once it has run the code."""
    script = f"{code}\nimport sys; print('\\n' + ' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(run.stdout.splitlines()[-1].split())


def test_help_loads_little_and_nothing_but_the_standard_library() -> None:
    shown = "import contextlib\nfrom bioquant.cli import main\nwith contextlib.suppress(SystemExit): main(['--help'])"
    more = loaded(shown) - loaded("pass")
    assert {name.split(".")[0] for name in more} - sys.stdlib_module_names == {"bioquant"}
    assert len(more) <= MOST_MODULES_FOR_HELP, sorted(more)


def declared() -> set[str]:
    """The distributions that pyproject.toml names, extras too."""
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    return {plain(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in wanted}


def plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_what_is_imported_is_declared(path: Path) -> None:
    top = {imported.split(".")[0] for imported in imports(path)} - sys.stdlib_module_names
    owners = packages_distributions()
    foreign = top - {"bioquant", "hydra_plugins", "__future__"}
    undeclared = {
        library for library in foreign if library in owners and not set(map(plain, owners[library])) & declared()
    }
    assert not undeclared
