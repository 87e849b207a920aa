"""The house: import directions and the map in README are true, nothing unsafe, nothing heavy at the door."""

import ast
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "musegen"


def module_map():
    """Rows of README's map in order: patterns of modules, top to bottom."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `musegen/([\w./*{},]+)`", text, re.MULTILINE)
    return [row.rstrip("/") for row in rows]


def row_of(module, rows):
    """The row that a module belongs to: the longest that names its file or a folder above it."""
    found = [r for r in rows if module == r or module.startswith(r + "/")]
    return max(found, key=len) if found else None


def modules():
    return sorted(
        # The code beside a shipped LSTM is a copy of what is checked here.
        p.relative_to(PACKAGE).as_posix()
        for p in PACKAGE.rglob("*.py")
        if PACKAGE / "checkpoints" not in p.parents
    )


def imports_of(path):
    """Modules of the package that a file imports, anywhere in it, as paths."""
    package = path.relative_to(ROOT).parent.as_posix().split("/")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] != "musegen":
                continue
            for end in range(len(parts), 0, -1):
                inner = "/".join(parts[1:end])
                if (PACKAGE / f"{inner}.py").is_file():
                    yield f"{inner}.py"
                    break
                if inner and (PACKAGE / inner / "__init__.py").is_file():
                    yield f"{inner}/__init__.py"
                    break


def test_the_map_names_every_module_and_nothing_else():
    rows = module_map()
    assert len(rows) == len(set(rows)) > 10
    doors = ("__init__.py", "__main__.py", "metrics/__init__.py")
    assert [m for m in modules() if m not in doors and row_of(m, rows) is None] == []
    assert [r for r in rows if not (PACKAGE / r).exists()] == []


def test_modules_import_only_from_rows_above():
    rows = module_map()
    for module in modules():
        own = row_of(module, rows)
        if own is None:
            continue
        for other in imports_of(PACKAGE / module):
            row = row_of(other, rows)
            if row is not None and row != own:
                assert rows.index(row) < rows.index(own), f"{module} imports {other}, from a row below its own"


def test_the_metric_stands_alone():
    for path in (PACKAGE / "metrics" / "music_bleu").glob("*.py"):
        outside = [m for m in imports_of(path) if not m.startswith("metrics/music_bleu/")]
        assert not outside, f"{path.name} imports {outside}"


def test_scripts_do_not_import_each_other():
    names = {p.stem for p in (ROOT / "scripts").glob("*.py")}
    for path in (ROOT / "scripts").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not names & {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in names | {"scripts"}


def test_nothing_that_can_run_code_is_loaded():
    banned = {
        "pickle": {"load", "loads", "Unpickler"},
        "torch": {"load"},
        "yaml": {"load", "full_load", "unsafe_load"},
        "os": {"system", "popen"},
    }
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                # Messages of workers are pickles that one reader takes, which rebuilds data alone.
                reader = path == PACKAGE / "workers" / "protocol.py" and node.attr == "Unpickler"
                assert reader or node.attr not in banned.get(node.value.id, ()), f"{path}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg in ("shell", "trust_remote_code", "allow_pickle"):
                # What a caller said may be handed on under its own name. One file runs code as a stranger to it
                # would: that which publishing has just put into a folder.
                handed_on = isinstance(node.value, ast.Name) and node.value.id == node.arg
                trial = path == PACKAGE / "hub" / "trial.py" and node.arg == "trust_remote_code"
                assert handed_on or trial or getattr(node.value, "value", None) is False, f"{path}:{node.value.lineno}"


def test_modules_are_of_a_readable_size():
    long = {p.name: n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text("utf-8").splitlines())) > 450}
    assert not long


@pytest.mark.parametrize("words", [["--help"], ["corpus", "--help"], ["generate", "--help"]])
def test_help_is_quick_and_imports_nothing_heavy(words):
    code = (
        "import sys\nsys.argv = ['musegen', *sys.argv[1:]]\nfrom musegen.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = ('torch', 'transformers', 'datasets', 'miditok', 'matplotlib', 'numpy')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.stdout.splitlines()[-1] == "[]" and "Usage" in done.stdout
    # Seconds of processor time, which other work on the machine hardly changes.
    assert min(took) < 1.5


def test_package_data_is_in_the_wheel_s_list():
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    for path in PACKAGE.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts:
            folder = path.parent.relative_to(PACKAGE).as_posix()
            assert folder.split("/")[0] in text, path
