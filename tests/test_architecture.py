"""Each library has its place, `--help` is light, and dvc.yaml knows what its stages import.

The arrows between the rooms are in pyproject.toml, for `lint-imports`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.paths import STAGES
from pipeline.settings.snapshot import USED

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline"
HEAVY = {"torch", "torchvision", "optuna", "mlflow", "dvc", "pandas", "matplotlib", "sklearn",
         "umap", "sqlalchemy", "scipy"}  # fmt: skip
ONLY_IN = {
    "optuna": {"study"},
    "mlflow": {"tracking"},
    "matplotlib": {"figures"},
    "sqlalchemy": {"study", "tracking"},
}


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


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_each_library_has_its_place(library: str) -> None:
    for path in FILES:
        if any(name.split(".")[0] == library for name in imports(path)):
            relative = str(path.relative_to(PACKAGE))
            assert any(relative.startswith(place) for place in ONLY_IN[library]), relative


def test_the_training_core_needs_torch_alone() -> None:
    used = {
        name.split(".")[0] for path in (PACKAGE / "vae").rglob("*.py") for name in imports(path)
    }
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


def test_commands_that_only_read_import_nothing_heavy() -> None:
    """They answer within half a second, and `prepare` does not wait for torch."""
    names = {path.stem for path in (PACKAGE / "commands").glob("*.py")} - {"__init__", "verify"}
    imported = [
        *(f"pipeline.commands.{name}" for name in sorted(names)),
        "pipeline.work.budget_by_deadline",
    ]
    code = f"import sys, {', '.join(imported)}; print(*{{n.split('.')[0] for n in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert HEAVY & set(done.stdout.split()) == {"sqlalchemy"}, done.stderr


def test_who_starts_the_workers_of_a_search_does_not_wait_for_torch() -> None:
    code = "import sys, pipeline.stages.search; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr


def closure(start: Path) -> set[Path]:
    """The project's files that a file imports, directly or not."""
    seen: set[Path] = set()
    waiting = [start]
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


STAGES_OF_DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# What a stage imports and what changes no output byte: messages, where and how fast, MLflow.
NEUTRAL = {
    "errors.py",
    "settings/deadline.py",
    "settings/machine.py",
    "work/cards.py",
}
# What reaches a stage through the files in settings/ alone, defaults included: of these the stage
# `settings` has the code as its dependency.
THROUGH_SETTINGS = {
    "settings/observations.py",
    "settings/own_data.py",
    "settings/search_section.py",
    "settings/sections.py",
    "settings/snapshot.py",
    "settings/space.py",
    "settings/validation.py",
}
PARSING = {
    f"settings/{name}.py"
    for name in ("declared", "hyperparameters", "own_family", "own_files", "parameters")
}


def uncovered(stage: str, start: Path, exempt: set[str]) -> list[str]:
    """The files that a stage imports from `start` on and that DVC does not watch for it."""
    covered = [ROOT / dep for dep in STAGES_OF_DVC[stage]["deps"] if "${" not in dep]
    return [
        str(path.relative_to(ROOT))
        for path in sorted(closure(start))
        if str(path.relative_to(PACKAGE)) not in exempt
        and path.name != "__init__.py"
        and not any(path == dep or dep in path.parents for dep in covered)
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_deps_cover_the_imports(stage: str) -> None:
    start = PACKAGE / "stages" / f"{stage}.py"
    parsing = PARSING if stage == "prepare" else set()  # of the space
    assert uncovered(stage, start, NEUTRAL | THROUGH_SETTINGS | parsing) == []


def test_dvc_makes_the_settings_again_when_a_default_changes() -> None:
    assert uncovered("settings", PACKAGE / "settings" / "snapshot.py", {"errors.py"}) == []


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_watches_the_sections_that_a_stage_uses(stage: str) -> None:
    prefix = "runs/${item.space}/settings/"
    watched = {dep.removeprefix(prefix) for dep in STAGES_OF_DVC[stage]["deps"] if prefix in dep}
    assert watched == {f"{section}.json" for section in USED[stage]}


def test_dvc_names_only_files_that_exist() -> None:
    for stage in STAGES_OF_DVC.values():
        for dep in stage.get("deps", []):
            assert dep.startswith("runs/") or (ROOT / dep).exists(), dep
        for plot in stage.get("plots", []):
            (options,) = plot.values()
            assert (ROOT / ".dvc" / "plots" / f"{options['template']}.json").exists()
