"""One run of the store, by MLflow's own id."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.tracking.store import connect, mask, outages

UNKNOWN_ID = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def find_run(uri: str, run_id: str) -> tuple[str, dict[str, str]]:
    """The experiment of a run and its tags.

    Raises UserError if the store has no such run, MirrorUnavailable if it does not answer.
    """
    unknown = UserError(
        f"MLflow at {mask(uri)} has no run {run_id}: copy the Run ID of a run's Overview page"
    )
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise unknown
    client = connect(uri)
    from mlflow.exceptions import MlflowException

    with outages(uri):
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in UNKNOWN_ID:
                raise unknown from None
            raise
        return client.get_experiment(run.info.experiment_id).name, run.data.tags
