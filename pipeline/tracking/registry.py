"""Model versions: `champion` is the best model known, `challenger` the other one to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.tracking.store import connect, outages

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
CONFIDENCE = 0.95  # of the one-sided test that moves the champion

PREFIX = "vae_pipeline."
DIGEST_TAG = PREFIX + "digest"
DECISION_TAG = PREFIX + "decision"


@dataclass(frozen=True)
class Score:
    """The validation NELBO over the seeds of one candidate, in nats per image."""

    mean_nats: float
    sd_nats: float  # sample standard deviation over the seeds, 0 for one seed
    seeds: int
    data: str  # hash of the data
    likelihood: str

    def tags(self) -> dict[str, str]:
        return {
            PREFIX + "nelbo_nats": repr(self.mean_nats),
            PREFIX + "nelbo_nats_sd": repr(self.sd_nats),
            PREFIX + "seeds": str(self.seeds),
            PREFIX + "data": self.data,
            PREFIX + "likelihood": self.likelihood,
        }

    @classmethod
    def from_tags(cls, tags: dict[str, str]) -> Score | None:
        """The score that `tags` wrote; None for a version that somebody else made."""
        try:
            return cls(
                mean_nats=float(tags[PREFIX + "nelbo_nats"]),
                sd_nats=float(tags[PREFIX + "nelbo_nats_sd"]),
                seeds=int(tags[PREFIX + "seeds"]),
                data=tags[PREFIX + "data"],
                likelihood=tags[PREFIX + "likelihood"],
            )
        except KeyError:
            return None


@dataclass(frozen=True)
class Winner:
    """A model to register."""

    run_id: str  # MLflow's id of the run that holds the model's folder
    artifact_path: str  # of that folder, as tracking.model writes it
    digest: str  # what identifies the model: the same digest is the same version
    score: Score
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Registration:
    """Where a winner ended up, and why."""

    version: int
    champion: bool
    reason: str


def register(uri: str, name: str, winner: Winner) -> Registration:
    """Makes the winner a version of the model `name` and decides about the aliases, once.

    A winner that is registered already changes nothing, not even an alias that a person moved
    since. Raises MirrorUnavailable when the store fails; the next call goes on from there.
    """
    with outages(uri):
        client = connect(uri)
        version = _find(client, name, winner) or _create(client, name, winner)
        aliases = client.get_registered_model(name).aliases
        reason = version.tags.get(DECISION_TAG)
        if reason is None:
            reason = _decide(client, version, winner.score, aliases.get(CHAMPION))
            aliases = client.get_registered_model(name).aliases
        return Registration(int(version.version), aliases.get(CHAMPION) == version.version, reason)


def compare(new: Score, old: Score) -> tuple[bool, str]:
    """Whether the new model is better beyond seed noise, and the reason in words.

    One-sided two-sample t-test with pooled variance (Student 1908): the difference of the means
    must exceed t(0.95; n₁+n₂−2) · s · √(1/n₁ + 1/n₂). The pooled s lends the noise of one side to
    the other, so a candidate with a single seed can be judged. Scores on other data or of another
    likelihood cannot be compared: the new model replaces the old one.
    """
    for what in ("data", "likelihood"):
        now, then = getattr(new, what), getattr(old, what)
        if now != then:
            return True, f"{what} is {now}, was {then}: not comparable, so the newer model leads"
    gain = old.mean_nats - new.mean_nats
    figures = f"nelbo_nats {new.mean_nats:.2f} against {old.mean_nats:.2f}"
    margin = _noise(new, old)
    if margin is None:
        return False, (
            f"{figures}, but one seed on each side tells nothing about seed noise: raise"
            " retrain.seeds"
        )
    verdict = "better" if gain > margin else "not better"
    return gain > margin, (
        f"{figures} is {verdict} beyond seed noise: the gain is {gain:.2f}, a gain up to"
        f" {margin:.2f} may be chance ({CONFIDENCE:.0%}, {new.seeds} and {old.seeds} seeds)"
    )


def _noise(new: Score, old: Score) -> float | None:
    """The largest difference of means to be expected from seeds alone, in nats."""
    freedom = new.seeds + old.seeds - 2
    if freedom == 0:
        return None
    from scipy.stats import t

    squares = (new.seeds - 1) * new.sd_nats**2 + (old.seeds - 1) * old.sd_nats**2
    error = math.sqrt(squares / freedom * (1 / new.seeds + 1 / old.seeds))
    return float(t.ppf(CONFIDENCE, freedom)) * error


def _find(client: MlflowClient, name: str, winner: Winner) -> ModelVersion | None:
    same = f"name = '{name}' and tags.`{DIGEST_TAG}` = '{winner.digest}'"
    found = client.search_model_versions(same)
    return min(found, key=lambda version: int(version.version), default=None)


def _create(client: MlflowClient, name: str, winner: Winner) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"runs:/{winner.run_id}/{winner.artifact_path}"
    tags = {**winner.tags, **winner.score.tags(), DIGEST_TAG: winner.digest}
    return client.create_model_version(name, source, winner.run_id, tags)


def _decide(client: MlflowClient, version: ModelVersion, score: Score, champion: str | None) -> str:
    """Moves the aliases; the decision's tag is written last, so a crash is decided again."""
    name = version.name
    better, reason = _judge(client, version, score, champion)
    if better and champion not in (None, version.version):
        client.set_registered_model_alias(name, CHALLENGER, champion)
    client.set_registered_model_alias(name, CHAMPION if better else CHALLENGER, version.version)
    client.update_model_version(name, version.version, reason)
    client.set_model_version_tag(name, version.version, DECISION_TAG, reason)
    return reason


def _judge(
    client: MlflowClient, version: ModelVersion, score: Score, champion: str | None
) -> tuple[bool, str]:
    if champion is None:
        return True, "the first version"
    if champion == version.version:
        return True, "the champion already"
    old = Score.from_tags(client.get_model_version(version.name, champion).tags)
    if old is None:
        return True, f"version {champion} has no score to compare with, so the newer model leads"
    better, reason = compare(score, old)
    return better, f"version {version.version} against version {champion}: {reason}"
