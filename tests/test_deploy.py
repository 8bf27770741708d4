"""What deploy/ ships for nights is what systemd and cron read."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import typer
import yaml
from jsonschema import Draft202012Validator

from pipeline.commands.verbs import app
from pipeline.commands.worker import WRONG
from pipeline.work.worker import INTERRUPTED

DEPLOY = Path(__file__).parent.parent / "deploy"
CLUSTER = DEPLOY.parent / "docs" / "cluster.md"
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for name in ("sweep.service", "sweep.timer"):
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(text.replace("%h/vae/.venv/bin/python", sys.executable))
    command = ["systemd-analyze", "verify", "--user", "--man=no", str(tmp_path / "sweep.timer")]
    known = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=known)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_commands_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their words are parsed as the command line does; nothing is run."""
    service = (DEPLOY / "sweep.service").read_text()
    (line,) = re.findall(r"^0 22 \* \* \* (.+)$", (DEPLOY / "crontab").read_text(), re.M)
    page = (DEPLOY / "README.md").read_text()
    found = [
        re.search(
            r"-m pipeline (sweep [^>\"\n]+)", text.replace("pipeline\nsweep", "pipeline sweep")
        )
        for text in (service, line, page)
    ]
    words = [shlex.split(each[1]) for each in found if each]
    assert len(words) == 3
    for command in words:
        group = typer.main.get_command(app)
        verb = group.commands[command[0]]  # type: ignore[attr-defined]
        context = verb.make_context("sweep", command[1:])
        assert context.params["names"] == ["fashion"]
        assert (context.params["until"], context.params["add"]) == ("07:00", 8)


def parsed(words: list[str]) -> dict[str, object]:
    """What the command line takes from `python -m pipeline WORDS`."""
    group = typer.main.get_command(app)
    verb = group.commands[words[0]]  # type: ignore[attr-defined]
    return dict(verb.make_context(words[0], words[1:]).params)


def test_kubernetes_starts_workers() -> None:
    manifest = yaml.safe_load((DEPLOY / "workers.yaml").read_text())
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    python, *module = container["command"]
    assert (python, module[:2]) == (".venv/bin/python", ["-m", "pipeline"])
    assert parsed(module[2:])["job"] == "fashion"
    rules = manifest["spec"]["podFailurePolicy"]["rules"]
    codes = {
        rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule
    }
    assert codes == {"Ignore": [INTERRUPTED], "FailJob": [WRONG]}


def test_kubernetes_takes_the_manifest() -> None:
    """By what its API says of a Job, in which no key is unknown: `kubectl` would refuse it."""
    schema = json.loads((FIXTURES / "kubernetes" / "job-1.30.json").read_text())
    refusals = Draft202012Validator(schema).iter_errors
    text = (DEPLOY / "workers.yaml").read_text()
    for lines in (text, text.replace("# limits:", "limits:")):
        assert not [error.message for error in refusals(yaml.safe_load(lines))]
    for line, wrong, path in (
        ("parallelism: 4", "parallelism: four", "spec.parallelism"),
        ("operator: In, ", "", "spec.podFailurePolicy.rules.1.onExitCodes"),
        ("workingDir: /vae", "workdir: /vae", "spec.template.spec.containers.0"),
    ):
        assert line in text
        (error,) = refusals(yaml.safe_load(text.replace(line, wrong, 1)))
        assert ".".join(map(str, error.absolute_path)) == path


def test_ssh_starts_a_worker(tmp_path: Path) -> None:
    """The line of the page, with a checkout and an ssh that say what they are told."""
    (line,) = re.findall(r"^ {4}(ssh .*)$", CLUSTER.read_text(), re.M)
    (tmp_path / "bin").mkdir()
    python = tmp_path / "vae-pipeline" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for file, script in (
        (tmp_path / "bin" / "ssh", 'shift; exec sh -c "$*"'),
        (python, 'echo "$PIPELINE_STORAGE" "$@"'),
    ):
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
    known = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=known, capture_output=True, text=True, check=True
    )
    storage, *words = done.stdout.split()
    assert storage.startswith("postgresql://")
    assert words[:2] == ["-m", "pipeline"]
    assert parsed(words[2:])["job"] == "digits"


def test_ray_starts_workers() -> None:
    """The line of the page, with a Ray that calls where Ray would."""
    (line,) = re.findall(r"^ {4}python -c \"(import ray.*)\"$", CLUSTER.read_text(), re.M)
    calls: list[list[str]] = []

    def remote(**resources: object) -> object:
        assert resources == {"num_cpus": 1}
        return lambda call: SimpleNamespace(remote=lambda argv, cwd: calls.append(argv))

    ray = ModuleType("ray")
    ray.init, ray.remote, ray.get = str, remote, list  # type: ignore[attr-defined]
    sys.modules["ray"] = ray
    try:
        exec(line, {})
    finally:
        del sys.modules["ray"]
    assert [parsed(argv[3:])["slot"] for argv in calls] == [0, 1, 2, 3]
    assert {tuple(argv[:3]) for argv in calls} == {(".venv/bin/python", "-m", "pipeline")}
