"""MLflow's pages on this machine."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.run_stage import say
from pipeline.commands.ui_guard import guarded
from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.space import space_names

if TYPE_CHECKING:
    from pipeline.tracking.store import Store

# MLflow finds `pipeline.tracking.pages` by this. It is given to the server alone: what a shared
# environment has installed may be another checkout's.
APP = "vae_pipeline"
ENTRY_POINTS = f"[mlflow.app]\n{APP} = pipeline.tracking.pages:app\n"


def serve_ui(root: Path, machine: Machine, port: int) -> int:
    """Serves MLflow's pages on the loopback interface until Ctrl-C or SIGTERM; its exit code.

    The server's processes end with this one, also when it is killed. Whose the store is not is
    shown what it holds now.
    """
    from pipeline.tracking.store import MirrorUnavailable, readable, sqlite_file, store_of

    store = store_of(machine, Paths(root, ""))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with readable(store.uri) as uri:
            if uri != store.uri:
                file = sqlite_file(store.uri)
                say(f"{file} may not be written by you: this is a copy of what it holds now")
            return _serve(root, store._replace(uri=uri), port)
    except KeyboardInterrupt:
        return 0
    except MirrorUnavailable as error:
        raise UserError(f"ui: {error}, then try again") from None


def _serve(root: Path, store: Store, port: int) -> int:
    from pipeline.tracking.moved import came_along, take_along
    from pipeline.tracking.store import connect, outages
    from pipeline.tracking.views import compare_link, has_candidates, links

    with tempfile.TemporaryDirectory() as folder:
        argv, extra = ui_command(store, Path(folder), port)
        write_text(Path(folder) / f"{APP}.dist-info" / "entry_points.txt", ENTRY_POINTS)
        client = connect(store.uri)  # creates the store, so that the server need not
        with outages(store.uri):
            found = {name: client.get_experiment_by_name(name) for name in space_names(root)}
            both = [each for each in found.values() if each and has_candidates(client, each)]
        for name, experiment in found.items():
            if experiment and came_along(store, name, experiment.artifact_location):
                take_along(store, name, experiment.artifact_location)
        server = f"http://127.0.0.1:{port}"
        say(f"MLflow: {server} (Ctrl-C ends it)")
        for name, experiment in found.items():
            if experiment:
                say(f"  {name}: {runs_page(server, experiment.experiment_id)}")
                for what, link in links(experiment.tags, experiment.experiment_id).items():
                    say(f"    {what}: {server}/{link}")
        if len(both) > 1:
            both = sorted(both, key=lambda each: each.last_update_time or 0)[-2:]
            names = " and ".join(each.name for each in both)
            link = compare_link([each.experiment_id for each in both])
            say(f"  {names}: {server}/{link}")
        with guarded(argv, {**os.environ, **extra}) as process:
            return process.wait()


def ui_command(store: Store, apps: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that serves MLflow's pages on this machine alone, and its extra environment.

    The URI travels in the environment, because everyone can read a command line; `apps` is the
    folder of our app. Raises UserError for a server, which has pages of its own.
    """
    from pipeline.tracking.store import mask

    if store.artifacts is None:
        raise UserError(f"tracking: {mask(store.uri)} serves its own pages: open it in a browser")
    code = [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": store.uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": store.artifacts.as_uri(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONPATH": os.pathsep.join([str(apps.resolve()), *filter(None, code)]),
    }
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--app-name", APP),
    ], environment


def runs_page(server: str, experiment_id: str) -> str:
    """The address of an experiment's table of runs.

    MLflow 3.17 looks at the address, then at what the browser remembers, and not at the experiment,
    to decide whether to show runs or GenAI traces.
    """
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
