"""Model versions: `champion` is the best model known, `challenger` the other one to look at.

All that a decision depends on is in the versions' tags: what their scores were measured on, and
which champion each was judged against, so that every night's look counts whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.tracking.logged_model import DIGEST_TAG, PREFIX, log_version
from pipeline.tracking.store import connect, outages, pages

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"

DECISION_TAG = PREFIX + "decision"
AGAINST_TAG = PREFIX + "against"  # the version that was the champion when this one came
NO_SIGMA = "none"
BY_HAND = "set the alias by hand if this model shall lead"
MEASURED_ON = ("data", "likelihood", "sigma")  # only what is equal in these can be compared


@dataclass(frozen=True)
class Score:
    """The validation NELBO over the seeds of one candidate, in nats per image."""

    mean_nats: float
    sd_nats: float  # sample standard deviation over the seeds, 0 for one seed
    seeds: int
    data: str  # hash of the prepared data, their validation split included
    likelihood: str
    sigma: str = NO_SIGMA  # of the likelihood: a number or `optimal`

    def tags(self) -> dict[str, str]:
        return {
            PREFIX + "nelbo_nats": repr(self.mean_nats),
            PREFIX + "nelbo_nats_sd": repr(self.sd_nats),
            PREFIX + "seeds": str(self.seeds),
            PREFIX + "data": self.data,
            PREFIX + "likelihood": self.likelihood,
            PREFIX + "sigma": self.sigma,
        }

    @classmethod
    def from_tags(cls, tags: dict[str, str]) -> Score | None:
        """The score that `tags` wrote; None for a version that somebody else made or edited."""
        try:
            return cls(
                mean_nats=float(tags[PREFIX + "nelbo_nats"]),
                sd_nats=float(tags[PREFIX + "nelbo_nats_sd"]),
                seeds=int(tags[PREFIX + "seeds"]),
                data=tags[PREFIX + "data"],
                likelihood=tags[PREFIX + "likelihood"],
                sigma=tags.get(PREFIX + "sigma", _unrecorded(tags[PREFIX + "likelihood"])),
            )
        except (KeyError, ValueError):
            return None


# Whether the last of the newcomers is better than the champion, and the reason in words.
Judge = Callable[[Score, list[Score]], tuple[bool, str]]


@dataclass(frozen=True)
class Winner:
    """A model to register."""

    run_id: str  # MLflow's id of the run that holds the model's folder
    artifact_path: str  # of that folder, as tracking.model writes it
    digest: str  # what identifies the model: the same digest is the same version
    score: Score
    params: dict[str, str] = field(default_factory=dict)
    page: str = ""  # Markdown: what its version shows below the reason


@dataclass(frozen=True)
class Registration:
    """Where a winner ended up, and why."""

    version: int
    champion: bool
    reason: str


def register(uri: str, name: str, winner: Winner, judge: Judge) -> Registration:
    """Makes the winner a version of the model `name` and decides about the aliases, once.

    It is the champion if there was none, or if `judge` says so of what was measured alike; else it
    is the challenger. The reason is the first line of its description. A winner that is registered
    already changes nothing, not even an alias that a person moved since. Raises MirrorUnavailable
    when the store fails; the next call goes on from there.
    """
    with outages(uri):
        client = connect(uri)
        version = _find(client, name, winner) or _create(client, name, winner)
        aliases = client.get_registered_model(name).aliases
        reason = version.tags.get(DECISION_TAG)
        if reason is None:
            reason = _decide(client, version, winner, aliases.get(CHAMPION), judge)
            aliases = client.get_registered_model(name).aliases
        return Registration(int(version.version), aliases.get(CHAMPION) == version.version, reason)


def unlike(new: Score, old: Score) -> str:
    """What makes two scores incomparable, in words; empty if nothing does."""
    differences = [
        f"{what} is {getattr(new, what)}, the champion's {getattr(old, what)}"
        for what in MEASURED_ON
        if getattr(new, what) != getattr(old, what)
    ]
    return ", ".join(differences)


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
    tags = {**winner.score.tags(), DIGEST_TAG: winner.digest}
    return client.create_model_version(name, source, winner.run_id, tags)


def _decide(
    client: MlflowClient, version: ModelVersion, winner: Winner, champion: str | None, judge: Judge
) -> str:
    """Moves the aliases; the decision's tag is written last, so a crash is decided again."""
    name = version.name
    if champion == version.version:  # it was interrupted after the alias had moved
        better, reason = True, (version.description or "the first version").splitlines()[0]
    else:
        better, reason = _judge(client, version, winner.score, champion, judge)
    link = log_version(client, version, winner.run_id, winner.params)
    said = [reason, f"[Metrics, data and lineage]({link})", winner.page]
    client.update_model_version(name, version.version, "\n\n".join(said).rstrip())
    if champion not in (None, version.version):
        client.set_model_version_tag(name, version.version, AGAINST_TAG, champion)
        if better:
            client.set_registered_model_alias(name, CHALLENGER, champion)
    client.set_registered_model_alias(name, CHAMPION if better else CHALLENGER, version.version)
    client.set_model_version_tag(name, version.version, DECISION_TAG, reason)
    return reason


def _judge(
    client: MlflowClient, version: ModelVersion, score: Score, champion: str | None, judge: Judge
) -> tuple[bool, str]:
    if champion is None:
        return True, "the first version"
    against = f"version {version.version} against version {champion}"
    old = Score.from_tags(client.get_model_version(version.name, champion).tags)
    if old is None:
        return False, f"{against}: the champion has no score to compare with; {BY_HAND}"
    if difference := unlike(score, old):
        return False, f"{against}: not comparable: {difference}; {BY_HAND}"
    earlier = _newcomers(client, version, champion, old)
    better, reason = judge(old, [*earlier, score])
    return better, f"{against}: {reason}"


def _newcomers(
    client: MlflowClient, version: ModelVersion, champion: str, old: Score
) -> list[Score]:
    """The scores that were compared with this champion before, in their order."""
    same = f"name = '{version.name}' and tags.`{AGAINST_TAG}` = '{champion}'"
    versions = pages(lambda token: client.search_model_versions(same, page_token=token))
    found = sorted(versions, key=lambda each: int(each.version))
    scores = [Score.from_tags(each.tags) for each in found if each.version != version.version]
    return [score for score in scores if score is not None and not unlike(score, old)]


def _unrecorded(likelihood: str) -> str:
    """The sigma of a version that was registered before sigmas were recorded."""
    return "not recorded" if likelihood == "gaussian" else NO_SIGMA
