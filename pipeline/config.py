"""search_spaces/NAME.yaml and machine.yaml as validated objects.

What changes the answer is in the search space; what changes only where or how fast is in
machine.yaml or the environment.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UserError
from pipeline.hyperparameters import Domain, Hyperparameters, Value, grid, parse_parameters

KNOWN_DATA = ("fashion-mnist", "mnist", "digits")
OWN_DATA = ("npz", "images", "pickle")
LIKELIHOODS = (
    "bernoulli",
    "binarized",
    "gaussian",
    "laplace",
    "continuous_bernoulli",
    "discretized_logistic",
)
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Validation(_Section):
    """How the validation images are split off the training images."""

    fraction: float = Field(0.1, gt=0, lt=1, description="share of the training images")
    seed: int = Field(42, ge=0, description="seed of the split")


class TestSplit(_Section):
    """How test images are split off a data set that has none of its own."""

    fraction: float = Field(0.2, gt=0, lt=1, description="share of all images")
    seed: int = Field(0, ge=0, description="seed of the split")


class Data(_Section):
    """Which images, and how they are split."""

    name: Literal["fashion-mnist", "mnist", "digits", "npz", "images", "pickle"]
    path: str | None = Field(None, description="file or folder of your own npz, images or pickle")
    limit: int | None = Field(None, ge=2, description="only the first so many training images")
    validation: Validation = Validation()
    test: TestSplit = TestSplit()

    @model_validator(mode="after")
    def _path_for_own_data(self) -> Data:
        if self.name in OWN_DATA and not self.path:
            raise ValueError(f"name: {self.name} needs `path`, the file or folder to read")
        if self.name in KNOWN_DATA and self.path:
            raise ValueError(f"name: {self.name} takes no `path` (a mirror is machine.yaml's)")
        return self


class Model(_Section):
    """What a trial may not vary, because trials of one study must be comparable."""

    likelihood: Literal[
        "bernoulli",
        "binarized",
        "gaussian",
        "laplace",
        "continuous_bernoulli",
        "discretized_logistic",
    ] = "bernoulli"
    sigma: float | Literal["optimal"] | None = Field(
        None, description="gaussian: fixed standard deviation (default √½), or `optimal` (σ-VAE)"
    )

    @model_validator(mode="after")
    def _sigma_of_gaussian(self) -> Model:
        if self.sigma is not None and self.likelihood != "gaussian":
            raise ValueError(f"`sigma` belongs to gaussian, but likelihood is {self.likelihood}")
        if isinstance(self.sigma, float) and self.sigma <= 0:
            raise ValueError(f"`sigma > 0` must hold, but got {self.sigma:g}")
        return self


Objective = Literal["nelbo_nats", "kl_nats", "recon_nats"]


class Search(_Section):
    """The study: how trials are proposed, pruned and compared."""

    sampler: Literal["tpe", "random", "grid", "gp", "cmaes"] = "tpe"
    startup_trials: int = Field(10, ge=1, description="random draws before the sampler learns")
    pruner: Literal["none", "median", "percentile", "successive_halving", "hyperband"] = "median"
    percentile: float = Field(25.0, gt=0, lt=100, description="percentile: the share that goes on")
    reduction_factor: int = Field(3, ge=2, description="halving: one in so many goes on")
    min_epochs: int = Field(1, ge=1, description="no pruning before so many epochs")
    min_trials: int = Field(4, ge=1, description="no pruning before so many comparable trials")
    trials: int = Field(20, ge=1, description="budget; raising it extends the study")
    epochs: int = Field(5, ge=1, description="epochs a trial at most")
    parallelism: int = Field(
        4, ge=1, description="a proposal sees the trials up to number - parallelism; workers ≤ it"
    )
    seed: int = Field(0, ge=0, description="seed of proposals, weights, shuffles and noise")
    objectives: Annotated[list[Objective], Field(min_length=1, max_length=2)] = Field(
        default=["nelbo_nats"],
        description="[nelbo_nats], or [kl_nats, recon_nats] for a rate-distortion sweep",
    )
    fallback: dict[str, Any] | None = Field(
        None, description="hyperparameters to retrain when no trial succeeds (default: an error)"
    )

    @model_validator(mode="after")
    def _objectives_fit(self) -> Search:
        if self.objectives not in (["nelbo_nats"], ["kl_nats", "recon_nats"]):
            raise ValueError(
                "objectives must be [nelbo_nats] or [kl_nats, recon_nats], but got"
                f" {self.objectives}"
            )
        if len(self.objectives) == 2 and self.pruner != "none":
            raise ValueError("two objectives cannot be pruned: set `pruner: none`")
        return self


class Retrain(_Section):
    """The best candidates on fresh seeds."""

    top: int = Field(2, ge=1, le=20, description="candidates")
    seeds: int = Field(3, ge=1, description="fresh seeds a candidate")
    epochs: int = Field(20, ge=1, description="epochs a run at most")


class Evaluate(_Section):
    """The test set, once."""

    nelbo_samples: int = Field(10, ge=1, description="posterior samples an image for the NELBO")
    iw_samples: int = Field(100, ge=0, description="samples K of the importance-weighted bound")
    probe: bool = Field(True, description="linear probe: logistic regression on posterior means")
    anomaly: list[str] = Field(
        default=[],
        description="AUROC of the per-image NELBO against these sets: `mnist`, `fashion-mnist`",
    )


class Render(_Section):
    """The figures and the report."""

    projections: list[Literal["pca", "tsne", "umap"]] = ["pca", "tsne"]
    points: int = Field(2000, ge=50, description="test images in a latent scatter")
    images: int = Field(10, ge=1, le=64, description="originals and reconstructions")
    prior_samples: int = Field(20, ge=1, le=400, description="images decoded from the prior")
    interpolation_steps: int = Field(10, ge=2, le=50)
    traversal_steps: int = Field(11, ge=2, le=50)
    traversal_range: float = Field(3.0, gt=0)
    grid_side: int = Field(15, ge=2, le=50, description="side of the decoded latent grid")
    grid_range: float = Field(3.0, gt=0, description="the grid spans [-range, range]²")
    smoothing: int = Field(7, ge=1, description="window of the moving average of the curves")
    uncertainty_decodes: int = Field(64, ge=2, description="stochastic decodes a variance map")


class Space(_Section):
    """One complete sweep."""

    name: str
    data: Data
    model: Model = Model()
    fixed: dict[str, Value]
    searched: dict[str, Domain]
    search: Search = Search()
    retrain: Retrain = Retrain()
    evaluate: Evaluate = Evaluate()
    render: Render = Render()

    def hyperparameters(self, chosen: dict[str, Value]) -> Hyperparameters:
        """The full setting of a trial: chosen over fixed over defaults."""
        return Hyperparameters(**{**self.fixed, **chosen})


class Machine(_Section):
    """machine.yaml: where and how fast. Nothing here changes a byte of an output."""

    workers: int | None = Field(None, ge=1, description="worker processes (default: the cores)")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1")
    data_mirror: str | None = Field(None, description="folder NAME/FILE to look for data in first")
    storage: str | None = Field(None, description="SQLAlchemy URL of the ledger (default: SQLite)")
    tracking: str | None = Field(None, description="MLflow URI (default: SQLite); `none`: no MLflow")


def load_space(root: Path, name: str) -> Space:
    """Reads and validates search_spaces/NAME.yaml. Raises UserError."""
    folder = root / "search_spaces"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if not NAME.fullmatch(name):
        raise UserError(
            f"a sweep's name is lower-case letters, digits, `-` and `_`, but got {name!r}"
        )
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"search_spaces/{name}.yaml does not exist: {hint}there are {', '.join(known) or 'none'}"
            f" in {folder}"
        )
    where = f"search_spaces/{name}.yaml"
    return parse_space(name, read_yaml(folder / f"{name}.yaml", where), where)


def parse_space(name: str, raw: dict[str, Any], where: str) -> Space:
    """The validated sweep of a file's content; `where` names the file in errors."""
    raw = dict(raw)
    parameters = raw.pop("parameters", None) or {}
    for key in ("name", "fixed", "searched"):
        if key in raw:
            raise UserError(_unknown_key(where, (key,)))
    if not isinstance(parameters, dict):
        raise UserError(f"{where}: parameters: must be a mapping, but got {parameters!r}")
    try:
        fixed, searched = parse_parameters(parameters)
    except ValueError as error:
        raise UserError(f"{where}: parameters.{error}") from None
    space = _validated(Space, {**raw, "name": name, "fixed": fixed, "searched": searched}, where)
    _check_space(space, where)
    return space


def load_machine(root: Path) -> Machine:
    """Reads machine.yaml (absent is fine) and the environment over it. Raises UserError."""
    path = root / "machine.yaml"
    raw = read_yaml(path, "machine.yaml") if path.exists() else {}
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        raw["tracking"] = uri
    if url := os.environ.get("PIPELINE_STORAGE"):
        raw["storage"] = url
    if workers := os.environ.get("PIPELINE_WORKERS"):
        raw["workers"] = int(workers) if workers.isdigit() else workers
    return _validated(Machine, raw, "machine.yaml")


def read_yaml(path: Path, where: str) -> dict[str, Any]:
    """The mapping in a YAML file; a key given twice is an error. Raises UserError."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{where}: is not valid YAML: {detail}") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{where}: must be a mapping of sections, but got {type(raw).__name__}")
    return raw


class _UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key}` is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _validated(model: type[Any], raw: dict[str, Any], where: str) -> Any:
    try:
        return model(**raw)
    except ValidationError as error:
        raise UserError(_one_line(error.errors()[0], where)) from None


def _one_line(error: Any, where: str) -> str:
    location = tuple(part for part in error["loc"] if isinstance(part, str | int))
    if error["type"] == "extra_forbidden":
        return _unknown_key(where, location)
    key = ".".join(str(part) for part in location if not str(part).startswith(("float", "literal")))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{where}: {key}: is required: add it"
    if error["type"] == "value_error":
        return f"{where}: {key + ': ' if key else ''}{message}"
    return f"{where}: {key}: {message}, but got {error['input']!r}"


def _unknown_key(where: str, location: tuple[str | int, ...]) -> str:
    model: Any = Machine if where == "machine.yaml" else Space
    for part in location[:-1]:
        model = model.model_fields[part].annotation
    valid = [name for name in model.model_fields if name not in ("name", "fixed", "searched")]
    if model is Space:
        valid.append("parameters")
    elif model is Data:
        valid.append("name")
    bad = str(location[-1])
    near = difflib.get_close_matches(bad, valid, n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    path = ".".join(str(part) for part in location)
    return f"{where}: unknown key `{path}`: {hint}valid keys: {', '.join(valid)}"


def _check_space(space: Space, where: str) -> None:
    """The rules that span sections."""
    search = space.search
    if space.data.name == "digits" and space.model.likelihood == "discretized_logistic":
        raise UserError(
            f"{where}: model.likelihood: discretized_logistic needs 8-bit values, but digits has"
            " 17 grey levels: use bernoulli, gaussian or another data set"
        )
    if search.sampler == "grid":
        for name, domain in space.searched.items():
            try:
                domain.grid()
            except ValueError as error:
                raise UserError(f"{where}: parameters.{name}: {error}") from None
        cells = sum(1 for _ in grid(space.searched))
        if search.trials > cells:
            raise UserError(
                f"{where}: search.trials: the grid has {cells} cells, but got {search.trials}:"
                f" set at most {cells}"
            )
    if search.sampler == "cmaes" and len(search.objectives) == 2:
        raise UserError(f"{where}: search.sampler: cmaes has one objective: use tpe, random or gp")
    if search.fallback is not None:
        try:
            fixed, searched = parse_parameters(search.fallback)
            space.hyperparameters(fixed)
        except (ValueError, ValidationError) as error:
            raise UserError(f"{where}: search.fallback.{error}") from None
        if searched:
            raise UserError(f"{where}: search.fallback: must hold values, not ranges")
