"""Links, files and commands of README and docs are what they say.

A block of shell commands that is fenced as `sh run` is run in a temporary checkout. Every other
command, in a block or in a code span, is named in `NOT_RUN`, with the test that runs it or the
reason why none does.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from test_pipeline import ROOT, run

READ = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*READ, *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, *sorted(ROOT.glob("bench/*.md")), *sorted(ROOT.glob("deploy/*.md"))]
FOLDERS = ("pipeline", "tests", "docs", "bench", "deploy", "search_spaces", ".ci", "tools")
PROGRAM = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(make|dvc|python|mlflow|curl|export) \S")
ALONE = "python -m pipeline"  # the program, not a command
NOT_RUN = {  # the beginning of a command: why
    "python -m pipeline doctor": "tests/commands/test_doctor.py; it is strict with the machine",
    "python -m pipeline pause": "tests/commands/test_wishes.py",
    "python -m pipeline resume": "tests/commands/test_wishes.py",
    "python -m pipeline cancel": "tests/commands/test_wishes.py",
    "make repro": "takes nine minutes; tests/test_pipeline.py repeats its stages on digits",
    "make test": "it runs these tests",
    "make lint": ".ci/run runs it",
    "make format": "it writes into the checkout",
    "make golden": "it writes into the checkout; tests/golden compares what it would write",
    "make ui": "serves until it is stopped; tests/tracking/test_browser.py does",
    "make .venv": "tests/test_makefile.py",
    "python -m pipeline run": "tests/test_pipeline.py",
    "python -m pipeline check NAME": "tests/commands/test_command_line.py",
    "python -m pipeline export NAME": "docs/python.md exports digits",
    "python -m pipeline keep": "tests/commands/test_keep.py",
    "python -m pipeline compare": "tests/api/test_api.py compares sweeps",
    "python -m pipeline prepare NAME": "tests/test_pipeline.py",
    "python -m pipeline retrain digits": "tests/test_pipeline.py",
    "python -m pipeline render NAME": "tests/test_pipeline.py",
    "python -m pipeline new": "tests/commands/test_new.py",
    "python -m pipeline sweep": "tests/commands/test_sweep_command.py",
    "python -m pipeline nights": "tests/commands/test_sweep_command.py",
    "python -m pipeline retry": "tests/commands/test_retry.py",
    "python -m pipeline space": "tests/commands/test_restore.py",
    "python -m pipeline verify": "tests/commands/test_verify.py",
    "python -m pipeline check fashion": "tests/test_notebooks.py checks spaces; digits is run",
    "python -m pipeline reproduce": "tests/commands/test_command_line.py",
    "python -m pipeline status": "tests/commands/test_status.py",
    "python -m pipeline search": "tests/test_pipeline.py",
    "python -m pipeline sync": "tests/tracking/test_sync.py",
    "python -m pipeline where": "tests/tracking/test_sync.py",
    "python -m bench.": "minutes; tests/test_bench.py runs its parts",
    "dvc ": "tests/test_pipeline.py runs repro; experiments and comparisons are DVC's own",
    "PYTHONPATH=. python tests/support/habits.py": "minutes; tests/test_habits.py gives it one",
    "PYTHONPATH=. python tests/support/deadlines.py": "minutes; tests/test_deadlines.py: one",
    "PYTHONPATH=. python tests/support/weather.py": "minutes; tests/test_weather.py: half a one",
    "OMP_NUM_THREADS=1 .venv/bin/python -m pytest": "it runs tests",
    "export MLFLOW_TRACKING_URI": "tests/tracking/test_serving.py",
    'python -c "import ray': "tests/test_deploy.py",
    "mlflow models serve": "tests/tracking/test_serving.py",
    "curl http://127.0.0.1:5001": "tests/tracking/test_serving.py",
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str) -> list[tuple[str, str]]:
    """All fenced blocks: what stands behind the fence, and the content."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.M | re.S)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(path.read_text()), re.M)
    kept = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    return {head.replace(" ", "-") for head in kept}


def commands(text: str) -> set[str]:
    """Every command in a code span, an indented block or a block of shell that is not run."""
    lines = re.findall(r"^ {4}(\S.*)$", prose(text), re.M) + re.findall(r"`([^`\n]+)`", prose(text))
    for info, content in blocks(text):
        if info.split()[:1] in (["sh"], ["bash"], ["console"], []) and info != "sh run":
            lines += content.splitlines()
    stripped = (line.strip().removeprefix("$ ") for line in lines)
    return {line for line in stripped if PROGRAM.match(line) and line != ALONE}


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file) if file else page
        assert found.exists(), f"{name(page)}: {target} leads nowhere"
        assert not anchor or anchor in anchors(found), f"{name(page)}: {target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    for span in re.findall(r"`([\w./-]+)`", prose(page.read_text())):
        inside = span.split("/")[0] in FOLDERS and "/" in span and "NAME" not in span
        assert not inside or (ROOT / span).exists(), f"{name(page)}: {span} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_is_run_or_has_a_reason(page: Path) -> None:
    for command in commands(page.read_text()):
        assert any(command.startswith(known) for known in NOT_RUN), (
            f"{name(page)}: `{command}` is in no block `sh run` and has no reason in NOT_RUN"
        )


def test_no_reason_is_left_over_and_its_tests_exist() -> None:
    found = set().union(*(commands(page.read_text()) for page in PAGES))
    for known, reason in NOT_RUN.items():
        assert any(command.startswith(known) for command in found), f"{known} stands nowhere"
        for test in re.findall(r"tests/[\w/]+(?:\.py)?", reason):
            assert (ROOT / test).exists(), f"{known}: {test} does not exist"


RUN = [
    pytest.param(content, id=f"{name(page)}-{number}")
    for page in PAGES
    for number, (info, content) in enumerate(blocks(page.read_text()))
    if info == "sh run"
]


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN)
def test_commands_do_what_they_say(block: str, tmp_path: Path) -> None:
    """In a checkout without data, runs or MLflow."""
    for each in ("pipeline", "search_spaces", "bench", "docs"):
        shutil.copytree(ROOT / each, tmp_path / each, ignore=shutil.ignore_patterns("__pycache__"))
    for each in ("dvc.yaml", ".dvcignore", "params.yaml", "machine.example.yaml", "pyproject.toml"):
        shutil.copy(ROOT / each, tmp_path)
    done = run(tmp_path, "bash", "-euo", "pipefail", "-c", block)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_is_short() -> None:
    assert 700 <= len((ROOT / "README.md").read_text().split()) <= 900
