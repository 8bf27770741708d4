"""The arrows between the parts point one way, and dvc.yaml knows what its stages import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline"
# What a part may import of the project besides itself.
BASE = {
    "config",
    "deadline",
    "errors",
    "hyperparameters",
    "machine",
    "parameters",
    "paths",
    "seeds",
    "validation",
}
ALLOWED = {
    "errors": set(),
    "seeds": set(),
    "paths": {"errors"},
    "validation": {"errors"},
    "hyperparameters": {"validation"},
    "parameters": {"hyperparameters", "validation"},
    "deadline": set(),
    "config": {"errors", "hyperparameters", "parameters", "validation"},
    "machine": {"deadline", "validation"},
    "vae": {"errors", "paths", "seeds"},
    "study": BASE,
    "tracking": BASE | {"vae"},  # its served model decodes with torch
    "launch": BASE,
    "sources": BASE | {"download", "readers"},
    "readers": BASE | {"unpickle"},
    "unpickle": BASE,
    "figures": BASE | {"vae"},
}
HEAVY = {"torch", "torchvision", "optuna", "mlflow", "dvc", "pandas", "matplotlib", "sklearn",
         "umap", "sqlalchemy", "scipy"}  # fmt: skip
ONLY_IN = {
    "optuna": {"study"},
    "mlflow": {"tracking"},
    "matplotlib": {"figures", "stages/prepare.py"},
    "sqlalchemy": {"study", "tracking"},
}


def part(path: Path) -> str:
    """The part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """All modules that a file imports, at any depth, type-checking blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_one_way(path: Path) -> None:
    mine = part(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("pipeline.")}
    used -= {mine}
    if mine in ALLOWED:
        assert used <= ALLOWED[mine]
    if mine == "stages":
        assert "stages" not in {n.split(".")[1] for n in imports(path) if n.count(".") > 1} - {mine}


def test_stages_do_not_import_each_other() -> None:
    for path in (PACKAGE / "stages").glob("*.py"):
        assert not {name for name in imports(path) if name.startswith("pipeline.stages.")}


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_each_library_has_its_place(library: str) -> None:
    for path in FILES:
        if any(name.split(".")[0] == library for name in imports(path)):
            relative = str(path.relative_to(PACKAGE))
            assert any(relative.startswith(place) for place in ONLY_IN[library]), relative


def test_the_training_core_needs_torch_alone() -> None:
    used = {name.split(".")[0] for path in (PACKAGE / "vae").glob("*.py") for name in imports(path)}
    third_party = used - set(sys.stdlib_module_names) - {"pipeline"}
    assert third_party <= {"torch", "numpy", "safetensors"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['x', '--help']\n"
        "import pipeline.__main__ as m\n"
        "try: m.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({n.split('.')[0] for n in sys.modules} & set(sys.stdin.read().split())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=" ".join(HEAVY),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def stage_closure(stage: str) -> set[Path]:
    """The project's files that a stage imports, directly or not."""
    seen: set[Path] = set()
    waiting = [PACKAGE / "stages" / f"{stage}.py"]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imports(path):
            for candidate in (
                ROOT / (name.replace(".", "/") + ".py"),
                ROOT / name.replace(".", "/") / "__init__.py",
            ):
                if name.startswith("pipeline") and candidate.exists():
                    waiting.append(candidate)
    return seen


# What changes no output byte, or does so through the sections in `params` alone.
NEUTRAL = {"__init__", "config", "errors", "paths", "crew", "progress", "sync", "records",
           "results", "champion", "tracking", "launch", "describe", "validation", "deadline",
           "machine", "owners", "stopping", "system"}  # fmt: skip


@pytest.mark.parametrize("stage", ["prepare", "search", "retrain", "evaluate", "render"])
def test_dvc_deps_cover_the_imports(stage: str) -> None:
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    covered = [ROOT / dep for dep in deps if "${" not in dep]
    for path in stage_closure(stage):
        if part(path) in NEUTRAL or path.name == "__init__.py":
            continue
        if stage == "prepare" and part(path) in ("hyperparameters", "parameters"):
            continue
        assert any(path == dep or dep in path.parents for dep in covered), path
