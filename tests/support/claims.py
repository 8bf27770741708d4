"""What a sweep states of itself, held against calm runs: outputs, dvc.lock, report, MLflow and the
commands' words. For `habits.py`."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import yaml
from calm import NAME, Oracle, Outputs, State, flat, read_outputs, whole_stages

if TYPE_CHECKING:
    from habits import Storm

STAGES = ("prepare", "search", "retrain", "evaluate", "render")
MLFLOW = ("MLflow: ", "MLflow is behind: ")
KILLED = {-9, -15, -2, -1, -3, 137, 143, 130, 129, 131}


class Claims:
    """Counts what was checked, and keeps what was false."""

    def __init__(self, root: Path, oracle: Oracle, storage: str | None):
        self.root, self._oracle = root, oracle
        self._ledger = root / "runs" / "state" / "ledger.db"
        self._storage = storage or f"sqlite:///{self._ledger}"
        self.checks, self.falsehoods, self.where = 0, list[str](), ""

    def check(self, holds: bool, otherwise: str) -> bool:
        """Counts a check, and a falsehood if it does not hold."""
        self.checks += 1
        if not holds:
            self.falsehoods.append(otherwise)
            print(f"FALSE: {otherwise}", flush=True)
        return holds

    def summary(self) -> str:
        return f"{self.checks} checks, {len(self.falsehoods)} falsehoods"

    def heard(self, argv: list[str], code: int, said: str, *, killed: bool) -> None:
        """How a command ended and what it said."""
        self._said = said
        print(f"  {' '.join(argv)}: {code}{', killed' * killed}", flush=True)
        self.check("Traceback (most" not in said, f"{argv}: a traceback:\n{said[-3000:]}")
        if argv[0] != "dvc":
            fine = {0, 2, 130} | (KILLED if killed else set())
            self.check(code in fine, f"{argv} ended with {code}:\n{said[-3000:]}")
            if code == 2:
                lines = [line for line in said.splitlines() if line.startswith("error: ")]
                self.check(len(lines) == 1, f"{argv}: not one line:\n{said[-3000:]}")

    # what lies on the disk

    def look(self, storm: Storm) -> None:
        """Checks the files, and what some commands say."""
        found = read_outputs(self.root)
        for stage in whole_stages(found):
            self.check(
                self._calm(storm, found, stage) is not None,
                f"runs/{NAME}/{stage} is of no state that the sweep was in:"
                f" {found.files[f'{stage}/record.json'].decode()}",
            )
        self._report(found)
        self._lock(storm)
        for asked in storm.rng.sample([self.status, self.verify, self.sync, self.origin], 2):
            asked(storm)

    def settled(self, storm: Storm) -> None:
        """After a calm `dvc repro` everything is as in a calm run of the present state."""
        found, calm = read_outputs(self.root), self._oracle(storm.state)
        other = sorted(
            name
            for name in found.files.keys() | calm.files.keys()
            if found.files.get(name) != calm.files.get(name)
        )
        self.check(not other, f"not as in a calm run of {storm.state}: {other}")
        self._report(found)
        self._lock(storm)
        for entry, content in self._entries():
            self.check(self._agrees(content, calm), f"dvc.lock: {entry} is not of {storm.state}")
        for asked in (self.sync, self.status, self.verify, self.origin):
            asked(storm)

    def _states(self, storm: Storm) -> list[State]:
        """All that the sweep has been in, the latest first."""
        return list(dict.fromkeys(reversed(storm.seen)))

    def _calm(self, storm: Storm, found: Outputs, stage: str) -> Outputs | None:
        """The calm run with this stage's record; only such as have its settings are made."""
        record = found.json(f"{stage}/record.json")
        for state in self._states(storm):
            space = {s: k for s, k in state.space.items() if s in record["settings"]}
            if _within(space, record["settings"]):
                calm = self._oracle(state)
                if calm.files[f"{stage}/record.json"] == found.files[f"{stage}/record.json"]:
                    return calm
        return None

    def _report(self, found: Outputs) -> None:
        """The report shows the ranges and figures of the records that it was made from."""
        if not set(STAGES) <= set(whole_stages(found)):
            return
        records = {stage: found.json(f"{stage}/record.json") for stage in STAGES}
        text = found.files["render/report.html"].decode()
        lr = records["search"]["settings"]["parameters"]["lr"]
        metrics = found.json("evaluate/metrics.json")
        if records["render"]["inputs"] != _digests(found, records["render"]["inputs"]):
            return  # it is of earlier outputs, as its record says
        for stated in (f"{lr['low']:g} … {lr['high']:g}", f"{metrics['nelbo_nats']:.2f}",
                       str(found.study), "all of them follow"):  # fmt: skip
            self.check(stated in text, f"report.html does not state {stated}")

    # DVC

    def _entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        file = self.root / "dvc.lock"
        if file.exists():
            stages = (yaml.safe_load(file.read_text()) or {}).get("stages", {})
            yield from ((name, each) for name, each in stages.items() if "@" in name)

    def _lock(self, storm: Storm) -> None:
        """Every entry has the outputs of its settings and dependencies."""
        for entry, content in self._entries():
            params = content.get("params", {}).get(f"search_spaces/{NAME}.yaml")
            states = [s for s in self._states(storm) if params in (None, s.space)]
            calm = any(self._agrees(content, self._oracle(state)) for state in states)
            self.check(calm, f"dvc.lock: {entry} is of no state: {content}")

    @staticmethod
    def _agrees(content: dict[str, Any], calm: Outputs) -> bool:
        base = f"runs/{NAME}/"
        return all(
            each["md5"] == calm.md5(each["path"].removeprefix(base))
            for each in [*content.get("deps", []), *content["outs"]]
            if each["path"].startswith(base)
        )

    # commands

    def status(self, storm: Storm) -> None:
        """`status` counts the trials that the ledger has."""
        storm.give("status", NAME)
        for study, counts in re.findall(r"^(?:search|candidate) (\S+): \d+ \w+: (.*)$", self._said,
                                        re.MULTILINE):  # fmt: skip
            rows = self._rows(study)
            right = ", ".join(f"{rows.count(s)} {s}" for s in
                              ("running", "complete", "pruned", "paused", "failed"))  # fmt: skip
            self.check(counts == right, f"status: {study} has {right}, not {counts}")
            self.check("failed" not in rows, f"a trial of {study} has failed: {self._said}")
        if "MLflow has all" in self._said:
            self._mlflow(storm)

    def _rows(self, study: str) -> list[str]:
        """The states of the trials: of each that of its last part."""
        engine = sa.create_engine(self._storage, poolclass=sa.NullPool)
        with engine.connect() as ledger:
            query = sa.text("SELECT trial, state FROM trials WHERE study = :study ORDER BY number")
            return list(
                dict(tuple(row) for row in ledger.execute(query, {"study": study})).values()
            )

    def verify(self, storm: Storm) -> None:
        """`verify` accepts what is as in a calm run of the space, and nothing else; it says which
        stages have written nothing, and where MLflow has more than a ledger that went back in time,
        until `sync`."""
        code, said = storm.give("verify", NAME), self._said
        found, space = read_outputs(self.root), storm.state.space
        made = [s for s in STAGES if any(name.startswith(f"{s}/") for name in found.files)]
        whole = made == list(whole_stages(found)) and "search" in made
        recorded: dict[str, Any] = {}
        for stage in made if whole else ():
            recorded |= found.json(f"{stage}/record.json")["settings"]
        here = {section: keys for section, keys in space.items() if section in recorded}
        honest = whole and _within(here, recorded) and any(
            all(found.files[f"{s}/record.json"] == calm.files[f"{s}/record.json"] for s in made)
            for calm in (self._oracle(State(storm.state.edits, data)) for data in
                         {s.data for s in storm.seen})
        )  # fmt: skip
        self.check(honest or code == 2, f"verify accepts what it should not: {said}")
        findings = said.splitlines()[:-1]  # the last is the error's line
        back = storm.actions["ledger replaced by an older copy"] > 0
        if back and honest and code == 2 and all(line.startswith(MLFLOW) for line in findings):
            lag = storm.give("status", NAME) or "not up to date" in self._said
            self.check(lag is True, f"MLflow is up to date, and verify says {said}")
            if storm.give("sync", NAME) == 0:
                code, said = storm.give("verify", NAME), self._said
        self.check(not honest or code == 0, f"verify refuses an honest sweep: {said}")
        for stage in set(STAGES) - set(made) if honest else ():
            self.check(f"{stage} has written nothing" in said, f"verify does not name {stage}")

    def sync(self, storm: Storm) -> None:
        """After a `sync` MLflow has the figures of the outputs."""
        if storm.give("sync", NAME) == 0:
            self._mlflow(storm)

    def origin(self, storm: Storm) -> None:
        """`where` tells of a run what dvc.lock and the calm run of its study have."""
        runs = [run for run in self._runs() if "kind" in run.data.tags]
        if not runs:
            return
        run = storm.rng.choice(runs)
        storm.give("where", run.info.run_id)
        tags = run.data.tags
        calm = self._of_study(storm, tags.get("search_study", tags["study"]))
        for name, md5 in re.findall(r"([\w.]+) ([0-9a-f]{32})\b", self._said):
            stage = "retrain" if tags["kind"] == "candidate" else "search"
            right = {each.md5(f"{stage}/{name}") for each in calm}
            self.check(md5 in right or name == "seeds", f"where: {name} of {tags['study']}:"
                       f" {md5} is of no calm run of it: {self._said}")  # fmt: skip
        data = {each.json("prepare/manifest.json")["sha256"] for each in calm}
        self.check(tags["data_sha256"] in data and tags["data_sha256"] in self._said,
                   f"where: data of {tags['study']}: {self._said}")  # fmt: skip

    # MLflow

    def _runs(self) -> list[Any]:
        """The runs of a copy of the store, as MLflow's client reads them."""
        from mlflow.tracking import MlflowClient

        store = self.root / "runs" / "state" / "mlflow.db"
        if not store.exists():
            return []
        copy = self.root.parent / f"mlflow-{self.checks}.db"  # MLflow keeps those it has open
        with closing(sqlite3.connect(store)) as old, closing(sqlite3.connect(copy)) as new:
            old.backup(new)
        self._client = MlflowClient(f"sqlite:///{copy}", f"sqlite:///{copy}")
        known = self._client.get_experiment_by_name(NAME)
        return list(self._client.search_runs([known.experiment_id])) if known else []

    def _mlflow(self, storm: Storm) -> None:
        found = read_outputs(self.root)
        for run in self._runs():
            tags, title = run.data.tags, f"MLflow: {run.info.run_name}"
            kind = tags.get("kind")
            self.check(run.info.status != "RUNNING", f"{title} is running")
            calm = self._of_study(storm, tags.get("search_study", tags.get("study", "")))
            if kind == "trial":
                history = self._client.get_metric_history(run.info.run_id, "nelbo_nats")
                has = [m.value for m in sorted(history, key=lambda m: m.step)]
                curves = [each.curves().get(int(tags["number"]), []) for each in calm]
                done = tags["state"] in ("complete", "pruned")
                self.check(
                    any(has == (curve if done else curve[: len(has)]) for curve in curves),
                    f"{title} of {tags['study']}, {tags['state']}, has {has}, not {curves}",
                )
            elif kind == "study":
                self._figures(run, found, calm)

    def _figures(self, run: Any, found: Outputs, calm: list[Outputs]) -> None:
        """The test figures of a study are those of its metrics.json; where that is of others than
        lie there now, those of a calm run, such as an experiment in another folder has sent."""
        stated = {
            key: value
            for key, value in run.data.metrics.items()
            if key.startswith("test_") and not math.isnan(value)
        }
        right = [_stated(each) for each in calm]
        whole = set(whole_stages(found)) >= {"prepare", "search", "retrain", "evaluate"}
        if whole and found.study == run.data.tags["study"]:
            right = [_stated(found)] if self._chained(found) else [*right, {}]
        self.check(
            not stated or any(stated == each for each in right),
            f"MLflow: {run.info.run_name} states {stated}, not {right}",
        )

    @staticmethod
    def _chained(found: Outputs) -> bool:
        """Whether every stage up to evaluate was made from what lies there."""
        records = (found.json(f"{s}/record.json")["inputs"] for s in STAGES[:4])
        return all(inputs == _digests(found, inputs) for inputs in records)

    def _of_study(self, storm: Storm, study: str) -> list[Outputs]:
        states = (each for each in self._states(storm))
        return [calm for calm in map(self._oracle, states) if calm.study == study]


def _stated(outputs: Outputs) -> dict[str, float]:
    found = dict(flat(outputs.json("evaluate/metrics.json")))
    return {k if k.startswith("test_") else f"test_{k}": v for k, v in found.items()}


def _digests(found: Outputs, inputs: dict[str, str]) -> dict[str, str]:
    from hashlib import sha256

    return {s: sha256(found.files.get(f"{s}/record.json", b"-")).hexdigest() for s in inputs}


def _within(part: Any, whole: Any) -> bool:
    """Whether all values of nested mappings are those of the other."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(_within(v, whole.get(k)) for k, v in part.items())
    return bool(part == whole)
