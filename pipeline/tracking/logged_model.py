"""A registered version among the *logged models* of its experiment: metrics, settings, lineage.

MLflow 3.17's registry keeps no metrics of a version, and forgets which logged model it is of unless
that holds the files. Those stay with the run, so that a checkout which is moved takes them along.
So the logged model says of which version it is, in the tag by which MLflow's pages know.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

PREFIX = "vae_pipeline."
DIGEST_TAG = PREFIX + "digest"  # of a version: which model it is
VERSIONS_TAG = "mlflow.modelVersions"
FIGURES = ("validation_", "test_")  # of the metrics of a study's run


def log_version(
    client: MlflowClient, version: ModelVersion, run_id: str, params: dict[str, str]
) -> str:
    """Logs a version with the figures that its run has now, once; the address of its page."""
    from mlflow.entities import Metric

    run = client.get_run(run_id)
    experiment_id, name = run.info.experiment_id, f"{version.name}-{version.version}"
    digest, found = version.tags[DIGEST_TAG], []
    for each in client.search_logged_models([experiment_id], f"name = '{name}'"):
        if each.tags.get(DIGEST_TAG) == digest:
            found.append(each)
        elif VERSIONS_TAG in each.tags:  # of a registered model of this name that was deleted
            client.delete_logged_model_tag(each.model_id, VERSIONS_TAG)
    tag = json.dumps([{"name": version.name, "version": str(version.version)}])
    model = found[0] if found else client.create_logged_model(
        experiment_id,
        name=name,
        source_run_id=run_id,
        tags={VERSIONS_TAG: tag, DIGEST_TAG: digest},
        params=params,
    )  # fmt: skip
    inputs = run.inputs.dataset_inputs if run.inputs else []
    data = [(each.dataset.name, each.dataset.digest) for each in inputs]
    of = (model.model_id, *(data[0] if data else (None, None)), run_id)
    client.log_batch(run_id, [
        Metric(each.key, each.value, each.timestamp, each.step, *of)
        for key in run.data.metrics if key.startswith(FIGURES)
        for each in client.get_metric_history(run_id, key)[-1:]
    ])  # fmt: skip
    client.finalize_logged_model(model.model_id, "READY")
    return f"#/experiments/{experiment_id}/models/{model.model_id}"
