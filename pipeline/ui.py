"""MLflow's pages on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from pipeline.config import space_names
from pipeline.machine import Machine
from pipeline.paths import Paths

# What a table of runs shows; without it the trials are folded away under their study.
TRIALS, NELBO = quote("tags.kind = 'trial'"), quote("metrics.`nelbo_nats`")
BEST_TRIALS_FIRST = f"&searchFilter={TRIALS}&orderByKey={NELBO}&orderByAsc=true"


def serve_ui(root: Path, machine: Machine, port: int) -> int:
    """Serves MLflow's pages on the loopback interface until Ctrl-C; its exit code."""
    from pipeline.tracking.store import connect, store_of, ui_command

    paths = Paths(root, "")
    uri = store_of(machine, paths)[0]
    argv, extra = ui_command(paths, machine.tracking, port)
    client = connect(uri)  # creates the store, so that the server need not
    print(f"MLflow: http://127.0.0.1:{port} (Ctrl-C ends it)", file=sys.stderr)
    for name in space_names(root):
        if experiment := client.get_experiment_by_name(name):
            page = runs_page(f"http://127.0.0.1:{port}", experiment.experiment_id)
            print(f"  {name}: {page}{BEST_TRIALS_FIRST}", file=sys.stderr)
    try:
        return subprocess.call(argv, env={**os.environ, **extra})
    except KeyboardInterrupt:
        return 0


def runs_page(server: str, experiment_id: str) -> str:
    """The address of an experiment's table of runs.

    MLflow 3.17 looks at the address, then at what the browser remembers, and not at the experiment,
    to decide whether to show runs or GenAI traces.
    """
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
