"""`mlflow models serve`: the champion answers over HTTP what it answers in Python."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import START, Store, study
from servers import answers, wait_for
from surroundings import free_port

from pipeline.sync.champion import judge
from pipeline.tracking.model import save_model
from pipeline.tracking.registry import Score, Winner, register
from pipeline.vae.checkpoint import save_weights
from pipeline.vae.model import build
from pipeline.vae.setting import read_architecture

pytestmark = pytest.mark.slow
RECORD = {"shape": [1, 6, 5], "family": "mlp", "hidden": [16], "skip": False, "activation": "relu",
          "init": "torch", "latent_dim": 3, "likelihood": "bernoulli", "sigma": None}  # fmt: skip
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 30), dtype=np.uint8)


@pytest.fixture
def champion(store: Store, tmp_path: Path) -> str:
    """The URI of a registered model of an untrained VAE."""
    save_weights(
        tmp_path / "model.safetensors",
        build((1, 6, 5), read_architecture(RECORD), seed=1).state_dict(),
    )
    (tmp_path / "config.json").write_text(json.dumps(RECORD))
    folder = tmp_path / "model"
    save_model(folder, tmp_path / "model.safetensors", tmp_path / "config.json")
    run = study(status="FINISHED", end_ms=START, artifacts={"model": folder})
    run_id = store.mirror().sync(store.name, [run]).run_ids[run.key]
    score = Score(1.0, 0.1, 3, "d", "bernoulli")
    register(store.uri, store.name, Winner(run_id, "model", "a", score), judge)
    return f"models:/{store.name}@champion"


@pytest.fixture
def ask(store: Store, champion: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Sends a request to a server started as the README says."""
    port = free_port()
    argv = [sys.executable, "-m", "mlflow", "models", "serve", "-m", champion]
    argv += ["--env-manager", "local", "--port", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls uvicorn
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            argv,
            cwd=tmp_path,
            env=os.environ | {"MLFLOW_TRACKING_URI": store.uri, "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def ask(**request: Any) -> Any:
        body = json.dumps(request).encode()
        headers = {"Content-Type": "application/json"}
        address = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, headers)
        with urllib.request.urlopen(address, timeout=60) as answer:
            return json.load(answer)["predictions"]

    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/ping"))
        yield ask
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_it_reconstructs_encodes_scores_and_generates(
    ask: Callable[..., Any], tmp_path: Path
) -> None:
    from mlflow import pyfunc

    model = pyfunc.load_model(str(tmp_path / "model"))
    for params in (
        {"mode": "reconstruct"},
        {"mode": "encode"},
        {"mode": "nelbo", "samples": 2, "seed": 3},
        {"mode": "generate", "n": 2},
    ):
        served = ask(inputs=IMAGES.tolist(), params=params)
        np.testing.assert_allclose(served, model.predict(IMAGES, params=params), rtol=1e-5)
    assert np.shape(ask(inputs=IMAGES.tolist())) == (4, 1, 6, 5)

    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(inputs=[[1, 2, 3]])
    assert refused.value.code == 400
    assert "images must be (n, 1, 6, 5)" in refused.value.read().decode()
