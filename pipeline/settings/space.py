"""search_spaces/NAME.yaml, all that changes the answer, as a validated object."""

from __future__ import annotations

import difflib
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.errors import UserError
from pipeline.settings.hyperparameters import Domain, Hyperparameters, Value, grid
from pipeline.settings.observations import Observations, found
from pipeline.settings.own_family import Read, Source, files_of, kind_of, named, nowhere, reader
from pipeline.settings.parameters import parse_parameters
from pipeline.settings.validation import (
    Section,
    did_you_mean,
    read_yaml,
    show,
    unknown_key,
    validated,
    whole_hint,
)

KNOWN_DATA = ("fashion-mnist", "mnist", "digits")
OWN_DATA = ("npz", "images", "pickle")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MAX_CELLS = 100_000
PRUNERS = ("median", "percentile")  # what stops a trial for good; at rungs it only waits

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Validation(Section):
    """How the validation images are split off the training images."""

    fraction: float = Field(0.1, gt=0, lt=1, description="share of the training images")
    seed: Seed = Field(42, description="seed of the split")


class TestSplit(Section):
    """How test images are split off a data set that has none of its own."""

    fraction: float = Field(0.2, gt=0, lt=1, description="share of all images")
    seed: Seed = Field(0, description="seed of the split")


class Data(Section):
    """Which images, and how they are split."""

    name: Literal["fashion-mnist", "mnist", "digits", "npz", "images", "pickle"]
    path: str | None = Field(None, description="file or folder of your own npz, images or pickle")
    size: Pixels | Annotated[list[Pixels], Field(min_length=2, max_length=2)] | None = Field(
        None, description="images: every image is brought to this side, or [height, width]"
    )
    crop: Literal["centre", "none"] = Field(
        "centre",
        description="size: cut to the shape around the centre, or not, which squeezes the image",
    )
    colour: Literal["grey", "rgb"] | None = Field(
        None, description="images: converted to grey or rgb, 16 bits rounded to 8"
    )
    flip: bool = Field(False, description="training images are also used mirrored: twice as many")
    limit: int | None = Field(None, ge=2, description="only the first so many training images")
    hold_out: str | None = Field(
        None, description="a class left out of all splits, for evaluate to detect as an anomaly"
    )
    validation: Validation = Validation()
    test: TestSplit = TestSplit()

    @model_validator(mode="after")
    def _path_for_own_data(self) -> Data:
        if self.name in OWN_DATA and not self.path:
            raise ValueError(f"name: {self.name} needs `path`, the file or folder to read")
        if self.name in KNOWN_DATA and self.path:
            raise ValueError(f"name: {self.name} takes no `path` (a mirror is machine.yaml's)")
        for key in ("size", "crop", "colour"):
            if self.name != "images" and getattr(self, key) not in (None, "centre"):
                raise ValueError(f"{key}: only `name: images` is read so: remove it")
        return self

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width) of `size`."""
        if self.size is None:
            return None
        height, width = self.size if isinstance(self.size, list) else (self.size, self.size)
        return height, width


class Model(Section):
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


class Constraints(Section):
    """Bounds of a model: a setting that breaks one is not proposed."""

    weights: Count | None = Field(None, description="weights of a model at most")
    multiply_adds: Annotated[int, Field(ge=1, le=10**15)] | None = Field(
        None, description="multiply-adds of a forward pass for an image at most"
    )
    memory_mb: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        None, description="megabytes of a training at most: weights, gradients, optimizer, batch"
    )


class Stop(Section):
    """When a search ends before its budget: more trials would not pay."""

    gain: float = Field(
        0.2, gt=0, description="nats that count as a gain: less is the noise between seeds"
    )
    patience: Count = Field(description="trials without a gain after which no new one begins")


class Search(Section):
    """The study: how trials are proposed, pruned and compared."""

    sampler: Literal["tpe", "random", "grid", "gp", "cmaes"] = "tpe"
    startup_trials: Count = Field(
        10, description="the centre and random draws, before the sampler learns"
    )
    random_share: float = Field(
        0.0, ge=0, le=1, description="tpe, gp: share of the later trials that are drawn at random"
    )
    enqueue: list[dict[str, Any]] = Field(
        default=[], description="settings to try first; what one leaves out is at its centre"
    )
    observations: Observations | None = Field(
        None, description="a table of kept trials that the search begins with"
    )
    pruner: Literal["rungs", "none", "median", "percentile"] = Field(
        "rungs", description="which trials end before their last epoch"
    )
    rungs: Annotated[list[Count], Field(min_length=1)] | None = Field(
        None,
        description="rungs: the epochs at which trials pause and the best go on (default: epochs,"
        " divided by the factor up to three times)",
    )
    reduction_factor: int = Field(3, ge=2, description="rungs: the best one in so many goes on")
    percentile: float = Field(25.0, gt=0, lt=100, description="percentile: the share that goes on")
    min_epochs: Count = Field(1, description="median, percentile: no pruning before so many epochs")
    min_trials: Count = Field(
        4, description="median, percentile: no pruning before so many comparable trials"
    )
    trials: Count = Field(20, description="budget; raising it extends the study")
    total_epochs: Count | None = Field(
        None, description="budget in epochs of all trials; raising it extends the study"
    )
    epochs: Count = Field(5, description="epochs a trial at most")
    parallelism: Count = Field(
        4, description="virtual workers: what a proposal has seen is as if so many had worked"
    )
    constraints: Constraints = Field(
        Constraints(), description="bounds that a model keeps: `weights`, `multiply_adds`"
    )
    stop: Stop | None = Field(None, description="ends the search when more trials do not pay")
    seed: Seed = Field(0, description="seed of proposals, weights, shuffles and noise")
    objectives: Annotated[list[Objective], Field(min_length=1, max_length=2)] = Field(
        default=["nelbo_nats"],
        description="[nelbo_nats], or [kl_nats, recon_nats] for a rate-distortion sweep",
    )
    fallback: dict[str, Any] | None = Field(
        None, description="hyperparameters to retrain when no trial succeeds (default: an error)"
    )

    @model_validator(mode="after")
    def _a_trial_fits(self) -> Search:
        if self.total_epochs is not None and self.total_epochs < self.epochs:
            raise ValueError(
                f"`total_epochs >= epochs` must hold, but got {self.total_epochs} < {self.epochs}:"
                " not one trial would fit"
            )
        return self

    @model_validator(mode="after")
    def _objectives_fit(self) -> Search:
        if self.objectives not in (["nelbo_nats"], ["kl_nats", "recon_nats"]):
            raise ValueError(
                "objectives must be [nelbo_nats] or [kl_nats, recon_nats], but got"
                f" {self.objectives}"
            )
        if len(self.objectives) == 2 and self.pruner != "none":
            raise ValueError("two objectives cannot be pruned: set `pruner: none`")
        if self.sampler in ("cmaes", "gp") and self.pruner == "rungs":
            raise ValueError(
                f"{self.sampler} learns from whole trials alone: set `pruner: none` or `median`"
            )
        return self

    @model_validator(mode="after")
    def _rungs_rise(self) -> Search:
        if self.rungs is None:
            return self
        if self.pruner != "rungs":
            raise ValueError(f"`rungs` belong to `pruner: rungs`, but got pruner {self.pruner}")
        if any(low >= high for low, high in pairwise(self.rungs)) or self.rungs[-1] > self.epochs:
            raise ValueError(
                f"rungs must rise and end at `epochs` ({self.epochs}) or before, but got"
                f" {self.rungs}"
            )
        return self

    @property
    def pauses(self) -> list[int]:
        """The epochs at which a trial pauses or ends, rising."""
        if self.pruner != "rungs":
            return [self.epochs]
        if self.rungs is not None:
            return self.rungs
        return sorted({math.ceil(self.epochs / self.reduction_factor**n) for n in range(4)})


class Retrain(Section):
    """The best candidates on fresh seeds."""

    top: int = Field(2, ge=1, le=20, description="candidates")
    seeds: Count = Field(3, description="fresh seeds a candidate")
    epochs: Count = Field(20, description="epochs a run at most")
    rungs: list[Count] | None = Field(
        None,
        description="the epochs at which candidates that are behind for sure are dropped; [] drops"
        " none (default: a half and three quarters of epochs)",
    )

    @model_validator(mode="after")
    def _rungs_rise(self) -> Retrain:
        rungs = self.rungs or []
        rises = all(low < high for low, high in pairwise(rungs))
        if not rises or not all(2 <= rung < self.epochs for rung in rungs):
            raise ValueError(
                f"rungs must rise, from 2 and to less than `epochs` ({self.epochs}), but got"
                f" {rungs}"
            )
        return self

    @property
    def looks(self) -> list[int]:
        """The epochs at which candidates are compared before the last one, rising."""
        if self.rungs is not None:
            return self.rungs
        shares = {math.ceil(self.epochs / 2), math.ceil(self.epochs * 3 / 4)}
        return sorted(rung for rung in shares if 2 <= rung < self.epochs)


class Evaluate(Section):
    """The test set, once."""

    nelbo_samples: Count = Field(10, description="posterior samples an image for the NELBO")
    iw_samples: int = Field(
        100, ge=0, le=1_000_000, description="samples K of the importance-weighted bound"
    )
    probe: bool = Field(True, description="linear probe: logistic regression on posterior means")
    anomaly: list[Literal["fashion-mnist", "mnist"]] = Field(
        default=[],
        description="AUROC of the per-image NELBO against these sets",
    )


class Render(Section):
    """The figures and the report."""

    projections: list[Literal["pca", "tsne", "umap"]] = Field(
        default=["pca", "tsne"], description="maps of the latent space to the plane"
    )
    points: int = Field(2000, ge=50, description="test images in a latent scatter")
    images: int = Field(10, ge=1, le=64, description="originals and reconstructions")
    prior_samples: int = Field(20, ge=1, le=400, description="images decoded from the prior")
    interpolation_steps: int = Field(10, ge=2, le=50)
    traversal_steps: int = Field(11, ge=2, le=50)
    traversal_range: float = Field(3.0, gt=0)
    grid_side: int = Field(15, ge=2, le=50, description="side of the decoded latent grid")
    grid_range: float = Field(3.0, gt=0, description="the grid spans [-range, range]²")
    smoothing: Count = Field(7, description="window of the moving average of the curves")
    uncertainty_decodes: int = Field(
        64, ge=2, le=10_000, description="stochastic decodes a variance map"
    )


class Space(Section):
    """One complete sweep."""

    name: str
    data: Data
    model: Model = Model()
    fixed: dict[str, Value]
    searched: dict[str, Domain]
    sources: dict[str, Source] = Field(
        {}, description="the Python files that it names: their content"
    )
    search: Search = Search()
    retrain: Retrain = Retrain()
    evaluate: Evaluate = Evaluate()
    render: Render = Render()

    @classmethod
    def valid_keys(cls) -> list[str]:
        """The sections of the file; `parameters` is split into fixed and searched."""
        return ["data", "model", "parameters", "search", "retrain", "evaluate", "render"]

    def section(self, name: str) -> dict[str, Any]:
        """The values in force of a section, as JSON holds them; those of `parameters` that are not
        given are left out. `model` holds the files that the space names, if it names any."""
        if name != "parameters":
            values: dict[str, Any] = getattr(self, name).model_dump(mode="json")
            if name == "model" and self.sources:
                values["sources"] = {file: each.model_dump() for file, each in self.sources.items()}
            return values
        searched = {key: domain.model_dump(mode="json") for key, domain in self.searched.items()}
        return {"searched": searched, "fixed": self.fixed}

    @classmethod
    def homes(cls, key: str) -> list[str]:
        """The sections that have the key; `parameters` has the hyperparameters."""
        return [*(["parameters"] if key in Hyperparameters.model_fields else []),
                *super().homes(key)]  # fmt: skip

    @property
    def constrained(self) -> bool:
        """Whether there are settings that are not to be tried."""
        return self.search.constraints != Constraints()

    @property
    def kind(self) -> type[Hyperparameters]:
        """The hyperparameters that a trial of it has."""
        given = (self.searched.get("family", self.fixed.get("family")), self.search.fallback or {})
        return kind_of(_families(*given), self.sources)

    def hyperparameters(self, chosen: dict[str, Value]) -> Hyperparameters:
        """The full setting of a trial: chosen over fixed over defaults."""
        return self.kind(**{**self.fixed, **chosen})

    def record(self, chosen: dict[str, Value]) -> dict[str, Any]:
        """The same behind the section `model`, as plain values: what makes a training its own."""
        return {**self.section("model"), **self.hyperparameters(chosen).model_dump()}


def load_space(root: Path, name: str) -> Space:
    """Reads and validates search_spaces/NAME.yaml. Raises UserError."""
    folder = root / "search_spaces"
    known = space_names(root)
    if not NAME.fullmatch(name):
        raise UserError(
            "a sweep's name is lower-case letters, digits, `-` and `_` (at most 64), but got"
            f" {name!r:.80}{_meant(name, known)}"
        )
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"search_spaces/{name}.yaml does not exist: {hint}there are"
            f" {', '.join(known) or 'none'} in {folder}"
        )
    where = f"search_spaces/{name}.yaml"
    space = parse_space(name, read_yaml(folder / f"{name}.yaml", where), where, reader(root))
    if (given := space.search.observations) is None:
        return space
    table = found(given, root, where)
    search = space.search.model_copy(update={"observations": table})
    return space.model_copy(update={"search": search})


def _meant(name: str, known: list[str]) -> str:
    """The remedy where a sweep's file was named instead of the sweep."""
    stem = Path(name).stem.lower()
    return f": did you mean {stem}?" if stem in known else ""


def space_names(root: Path) -> list[str]:
    """The sweeps of a checkout."""
    return sorted(path.stem for path in (root / "search_spaces").glob("*.yaml"))


def parse_space(name: str, raw: dict[str, Any], where: str, read: Read = nowhere) -> Space:
    """The validated sweep of a file's content; `where` names the file in errors, and `read` gives
    the Python files that it names."""
    if unknown := [key for key in raw if key not in Space.valid_keys()]:
        raise UserError(unknown_key(Space, (unknown[0],), where))
    sections = dict(raw)
    parameters = sections.pop("parameters", {})
    if not isinstance(parameters, dict):
        raise UserError(f"{where}: parameters: must be a mapping, but got {show(parameters)}")
    try:
        families = _families(parameters.get("family"), _fallback(sections.get("search")))
        sources = {file: read(file) for file in files_of(families)}
        kind = kind_of(families, sources)
    except ValueError as error:
        raise UserError(f"{where}: parameters.family: {error}") from None
    for key in parameters:
        hint = "" if key in Hyperparameters.model_fields else whole_hint(Space, key)
        if hint and "`parameters`" not in hint:
            raise UserError(f"{where}: parameters.{key}: {hint}move it there")
    try:
        fixed, searched = parse_parameters(parameters, kind)
    except ValueError as error:
        raise UserError(f"{where}: parameters.{error}") from None
    sections |= {"name": name, "fixed": fixed, "searched": searched, "sources": sources}
    space = validated(Space, sections, where)
    _check_space(space, where)
    return space


def _families(family: Any, fallback: dict[str, Any]) -> list[str]:
    """The families that a space names, those of its own files among them."""
    return [*named(family), *named(fallback.get("family"))]


def _fallback(search: Any) -> dict[str, Any]:
    """The fallback of a section that is not checked yet."""
    found = search.get("fallback") if isinstance(search, dict) else None
    return found if isinstance(found, dict) else {}


def _check_space(space: Space, where: str) -> None:
    """The rules that span sections."""
    search = space.search
    if space.data.name == "digits" and space.model.likelihood == "discretized_logistic":
        raise UserError(
            f"{where}: model.likelihood: discretized_logistic needs 8-bit values, but digits has"
            " 17 grey levels: use bernoulli, gaussian or another data set"
        )
    settings = (space.fixed, search.fallback or {})
    averaged = any(setting.get("averaging") is not None for setting in settings)
    if space.model.sigma == "optimal" and (averaged or "averaging" in space.searched):
        raise UserError(
            f"{where}: parameters.averaging: an optimal sigma is that of the moving weights, not of"
            " their average: remove averaging or give sigma a value"
        )
    if search.sampler == "grid":
        _check_grid(space, where)
    if search.sampler == "cmaes" and space.constrained:
        raise UserError(
            f"{where}: search.constraints: cmaes cannot be told of settings that are not tried: use"
            " tpe, gp, random or grid"
        )
    if search.sampler == "cmaes" and search.observations:
        raise UserError(
            f"{where}: search.observations: cmaes learns from what it has asked for itself alone:"
            " use tpe, gp, random or grid"
        )
    for number, given in enumerate(search.enqueue):
        _check_enqueued(space, given, f"{where}: search.enqueue.{number}")
    if search.sampler == "cmaes" and len(search.objectives) == 2:
        raise UserError(f"{where}: search.sampler: cmaes has one objective: use tpe, random or gp")
    if search.fallback is not None:
        try:
            _, searched = parse_parameters({**space.fixed, **search.fallback}, space.kind)
        except ValueError as error:
            raise UserError(f"{where}: search.fallback.{error}") from None
        if searched:
            raise UserError(
                f"{where}: search.fallback: must hold values, but got a range or choices for"
                f" {', '.join(searched)}"
            )


def _check_enqueued(space: Space, given: dict[str, Any], where: str) -> None:
    """A setting to try first must be one that could be proposed."""
    for name, value in given.items():
        domain = space.searched.get(name)
        if domain is None:
            valid = ", ".join(space.searched) or "none"
            hint = did_you_mean(name, list(space.searched))
            raise UserError(f"{where}.{name}: is not searched: {hint}searched are {valid}")
        if not domain.holds(value):
            raise UserError(
                f"{where}.{name}: must be a value of its range or choices, but got {show(value)}"
            )


def _check_grid(space: Space, where: str) -> None:
    sizes = []
    for name, domain in space.searched.items():
        try:
            sizes.append(len(domain.grid()))
        except ValueError as error:
            raise UserError(f"{where}: parameters.{name}: {error}") from None
    if math.prod(sizes) > MAX_CELLS:
        raise UserError(
            f"{where}: search.sampler: a grid has at most {MAX_CELLS} cells, but got"
            f" {math.prod(sizes)}: use fewer choices, larger steps or another sampler"
        )
    cells = sum(1 for _ in grid(space.searched))
    if space.search.trials > cells:
        raise UserError(
            f"{where}: search.trials: the grid has {cells} cells, but got {space.search.trials}:"
            f" set at most {cells}"
        )
