"""The rules of the house that a machine can read. Budgets only tighten."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = sorted((ROOT / "walrep").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
ALL = [*PRODUCT, *TESTS, *BENCHMARKS]

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
PARAMETERS_MAX = 6
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
TASK_GROUP_NAMES = {"group", "tg"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def parameter_count(function: Function) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    starred = [star for star in (arguments.vararg, arguments.kwarg) if star is not None]
    return sum(argument.arg not in {"self", "cls"} for argument in named) + len(starred)


def called_name(call: ast.Call) -> str:
    """Return the dotted text of what is called."""
    return ast.unparse(call.func)


def imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.fixture(params=PRODUCT, ids=relative)
def product_file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(params=ALL, ids=relative)
def any_file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_the_rules_see_the_tree() -> None:
    assert {"walrep/errors.py", "walrep/core/units.py"} <= {relative(path) for path in PRODUCT}
    assert "tests/test_architecture.py" in {relative(path) for path in TESTS}


def test_file_fits_the_budget(any_file: Path) -> None:
    assert len(any_file.read_text().splitlines()) <= FILE_LINES_MAX


def test_functions_fit_the_budget(any_file: Path) -> None:
    sizes = {
        f"{function.name}, line {function.lineno}": (function.end_lineno or 0) - function.lineno + 1
        for function in functions(parse(any_file))
    }
    assert {name: lines for name, lines in sizes.items() if lines > FUNCTION_LINES_MAX} == {}


def test_functions_take_few_parameters(product_file: Path) -> None:
    counts = {
        f"{function.name}, line {function.lineno}": parameter_count(function)
        for function in functions(parse(product_file))
    }
    assert {name: count for name, count in counts.items() if count > PARAMETERS_MAX} == {}


def test_module_has_a_name_that_says_something(any_file: Path) -> None:
    assert {any_file.stem, *any_file.relative_to(ROOT).parts} & VAGUE_NAMES == set()


def test_module_says_what_it_offers(product_file: Path) -> None:
    """`__all__` names what exists, sorted as ruff has it; a package's empty `__init__` and `__main__` offer nothing."""
    tree = parse(product_file)
    names = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
    ]
    code = [node for node in tree.body if not isinstance(node, ast.Expr)]
    if product_file.name == "__main__.py" or (product_file.name == "__init__.py" and not code):
        return
    assert len(names) == 1, "one __all__"


def test_module_has_a_docstring(product_file: Path) -> None:
    assert ast.get_docstring(parse(product_file))


def test_invariants_are_checked_also_under_optimization(product_file: Path) -> None:
    asserts = [node.lineno for node in ast.walk(parse(product_file)) if isinstance(node, ast.Assert)]
    assert asserts == [], "use walrep.errors.check"


def test_a_task_group_owns_every_task(any_file: Path) -> None:
    """`create_task` is a method of a task group called `group` or `tg`, here as an attribute or a name."""
    strays = []
    for node in ast.walk(parse(any_file)):
        if not isinstance(node, ast.Call) or called_name(node).rpartition(".")[2] != "create_task":
            continue
        owner = called_name(node).split(".")[-2:-1]
        if not owner or owner[0].lstrip("_") not in TASK_GROUP_NAMES:
            strays.append(f"line {node.lineno}: {called_name(node)}")
    assert strays == []


def test_no_second_sqlite_library(product_file: Path) -> None:
    """INV-03: a second SQLite library in the process loses all POSIX locks when it closes a file."""
    assert [name for name in imported_modules(parse(product_file)) if name.split(".")[0] == "sqlite3"] == []


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_no_test_sleeps(path: Path) -> None:
    """Child processes are programs in strings, and may: they are the app, not the test."""
    sleeps = [
        node.lineno
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and called_name(node) in {"time.sleep", "sleep"}
    ]
    assert sleeps == []


def test_only_passive_checkpoints(product_file: Path) -> None:
    """INV-04: the others make writers wait for readers. A pragma could say it too."""
    tree = parse(product_file)
    modes = {each.attr for each in ast.walk(tree) if isinstance(each, ast.Attribute)}
    assert {mode for mode in modes if mode.startswith("SQLITE_CHECKPOINT_")} <= {"SQLITE_CHECKPOINT_PASSIVE"}
    texts = [each.value for each in ast.walk(tree) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    assert not [text for text in texts if "wal_checkpoint" in text]


def test_import_contracts_are_kept() -> None:
    lint_imports = Path(sys.executable).parent / "lint-imports"
    run = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
