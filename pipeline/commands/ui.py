"""MLflow's pages on this machine."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pipeline.commands.guard import guarded
from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.space import space_names


def serve_ui(root: Path, machine: Machine, port: int) -> int:
    """Serves MLflow's pages on the loopback interface until Ctrl-C or SIGTERM; its exit code.

    The server's processes end with this one, also when it is killed.
    """
    from pipeline.tracking.store import (
        MirrorUnavailable,
        connect,
        outages,
        store_of,
        ui_command,
        write_app,
    )
    from pipeline.tracking.views import links

    paths = Paths(root, "")
    uri = store_of(machine, paths).uri
    argv, extra = ui_command(paths, machine.tracking, port)
    try:
        client = connect(uri)  # creates the store, so that the server need not
        with outages(uri):
            found = {name: client.get_experiment_by_name(name) for name in space_names(root)}
    except MirrorUnavailable as error:
        raise UserError(f"ui: {error}: start or mend it; a store that is deleted is built anew by"
                        " `python -m pipeline sync`") from None  # fmt: skip
    write_app(paths)
    server = f"http://127.0.0.1:{port}"
    print(f"MLflow: {server} (Ctrl-C ends it)", file=sys.stderr)
    for name, experiment in found.items():
        if experiment:
            print(f"  {name}: {runs_page(server, experiment.experiment_id)}", file=sys.stderr)
            for what, link in links(experiment.tags, experiment.experiment_id).items():
                print(f"    {what}: {server}/{link}", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with guarded(argv, {**os.environ, **extra}) as process:
            return process.wait()
    except KeyboardInterrupt:
        return 0


def runs_page(server: str, experiment_id: str) -> str:
    """The address of an experiment's table of runs.

    MLflow 3.17 looks at the address, then at what the browser remembers, and not at the experiment,
    to decide whether to show runs or GenAI traces.
    """
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
