"""MLflow's pages as they suit this project: an app for `mlflow server --app-name vae_pipeline`.

MLflow 3.17 shows experiments as GenAI traces or as model training by what the browser remembers,
and opens messages of its own. No option of the server changes that, so its first page brings the
settings along, for browsers that have none. All else is MLflow's.
"""

from __future__ import annotations

import json
from pathlib import Path

from mlflow.server import app as flask
from mlflow.server.fastapi_app import app
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

REMEMBERED = {  # of the browser's localStorage; what a person has chosen there stays
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "_mlflow_model_registry_promo_modal_dismissed_v1": True,
    "mlflow.telemetry.info.alert.dismissed_v1": True,
    "mlflow.detectIssues.guidanceShown_v1": True,
    "mlflow.settings.telemetry.enabled_v1": False,
}
SCRIPT = f"""<script>
for (const [key, value] of Object.entries({json.dumps(REMEMBERED)}))
  if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));
</script>"""
HEAD = "<head>"


def first_page(request: Request) -> HTMLResponse:
    """MLflow's only page, with our script before its own; a stock page in a cache is no other."""
    html = Path(str(flask.static_folder), "index.html").read_text(encoding="utf-8")
    return HTMLResponse(html.replace(HEAD, HEAD + SCRIPT, 1), headers={"Cache-Control": "no-store"})


app.router.routes.insert(0, Route("/", first_page))
