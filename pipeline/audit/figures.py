"""What the test set gave: the sums within metrics.json, and what the report states of it all."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator
from typing import Any

from pipeline.audit.book import Book
from pipeline.audit.text import CLOSE
from pipeline.figures import report
from pipeline.figures.inputs import read_inputs
from pipeline.figures.trials import ascending
from pipeline.files import read_json
from pipeline.results.keys import HEADLINE
from pipeline.settings.space import Space
from pipeline.study.identity import changes

FILE = "evaluate/metrics.json"
SINGLE = 1e-6  # relative: sums in single precision
REFERENCE = 1e-3  # relative: the model's likelihood keeps the mean image off 0 and 1 by more
EPOCHS = ("first_epoch", "last_epoch")
IMAGE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def metrics(book: Book) -> Iterator[str]:
    """What does not follow within metrics.json, or from the data and the winner."""
    figures, seeds = book.metrics, book.winner["values_nelbo_nats"]
    for name, part in {"": figures, **{f"{e}.": figures[e] for e in EPOCHS}}.items():
        yield from _sums(book, name, part)
    yield from _keys(book)
    yield from _headline(book)
    due: dict[str, Any] = {
        "test_images": book.counts["test"],
        "seeds.count": len(seeds),
        "iw_samples": book.space.evaluate.iw_samples or None,
        "baselines.pca_components": _components(book),
    }
    if "nelbo_samples" in figures:  # earlier versions did not state it
        due["nelbo_samples"] = book.space.evaluate.nelbo_samples
    for name, value in due.items():
        if _at(figures, name) != value:
            yield f"{FILE}: {name} is {_at(figures, name)}, but follows as {value}"
    yield from _seeds(figures)
    yield from _epochs(book)
    reference = {"baselines.mean_image_mse_per_pixel": book.manifest["mean_image_mse_per_pixel"]}
    if book.space.model.likelihood == "bernoulli":
        mean_image = book.manifest["bernoulli"]["mean_image_nelbo_nats"]
        reference["baselines.mean_image_nelbo_nats"] = mean_image
    for name, splits in reference.items():
        if not math.isclose(_at(figures, name), splits["test"], rel_tol=REFERENCE):
            yield f"{FILE}: {name} is {_at(figures, name)}, but manifest.json has {splits['test']}"


def page(book: Book, space: Space) -> Iterator[str]:
    """What the report states otherwise than the files, and figures that are not its own."""
    space = space.model_copy(update={"searched": ascending(space.searched)})
    text = book.paths.report.read_text(encoding="utf-8")
    stated = report.statements(space, read_inputs(book.paths, space.searched))
    for name, part in stated.items():
        if part not in text:
            yield f"render/report.html: {name}: states otherwise than the files it is made from"
    shown = {base64.b64decode(content) for content in IMAGE.findall(text)}
    kept = {file.name: file.read_bytes() for file in sorted(book.paths.render.glob("*.png"))}
    for name, content in kept.items():
        if content not in shown:
            yield f"render/{name}: is not the figure in report.html"
    known = {*kept.values(), book.paths.samples.read_bytes()}
    if strangers := len(shown - known):
        yield f"render/report.html: {strangers} of its figures are not among render/*.png"


def _sums(book: Book, name: str, part: dict[str, Any]) -> Iterator[str]:
    nelbo, pixels = part["nelbo_nats"], math.prod(book.manifest["shape"])
    due = {
        "nelbo_nats": part["recon_nats"] + part["kl_nats"],
        "bits_per_dim": nelbo / (pixels * math.log(2)),
    }
    if "excess_nats" in part:
        due["excess_nats"] = nelbo - book.manifest["bernoulli"]["entropy_floor_nats"]["test"]
    for key, value in due.items():
        if not math.isclose(part[key], value, rel_tol=CLOSE, abs_tol=CLOSE):
            yield f"{FILE}: {name}{key} is {part[key]}, but follows as {value}"
    if ("excess_nats" in part) != (book.space.model.likelihood == "bernoulli"):
        yield f"{FILE}: {name}excess_nats belongs to likelihood bernoulli"
    if not 0 <= part["active_units"] <= book.config["latent_dim"]:
        yield f"{FILE}: {name}active_units is {part['active_units']}"


def _keys(book: Book) -> Iterator[str]:
    """What the settings ask for was measured, and nothing else is stated."""
    options, classes = book.space.evaluate, len(book.manifest["classes"])
    foreign = [*options.anomaly, *(["hold_out"] if book.paths.held_out.exists() else [])]
    due = {
        "probe_accuracy": options.probe and classes > 1,
        "iw_nll_nats": bool(options.iw_samples),
        "anomaly_auroc": bool(foreign),
        "own_metrics": bool(options.metrics),
    }
    for key, asked in due.items():
        if (key in book.metrics) != asked:
            yield f"{FILE}: {key} is {'missing' if asked else 'stated, but not asked for'}"
    named = sorted(name.rpartition(":")[2] for name in options.metrics or [])
    if (stated := sorted(book.metrics.get("own_metrics", {}))) != named:
        yield f"{FILE}: own_metrics are of {stated}, but asked for was {named}"
    if (found := sorted(book.metrics.get("anomaly_auroc", foreign))) != sorted(foreign):
        yield f"{FILE}: anomaly_auroc has {', '.join(found)}, but {', '.join(foreign)} is asked for"


def _headline(book: Book) -> Iterator[str]:
    """headline.json is the first part of metrics.json."""
    due = {key: book.metrics[key] for key in HEADLINE if key in book.metrics}
    for change in changes(read_json(book.paths.headline), due):
        yield f"evaluate/headline.json: {change} by metrics.json"


def _seeds(figures: dict[str, Any]) -> Iterator[str]:
    """With one seed its NELBO is the mean; with two, the mean and the spread give both."""
    seeds, nelbo = figures["seeds"], figures["nelbo_nats"]
    mean, spread = seeds["nelbo_nats_mean"], seeds.get("nelbo_nats_sd", 0.0)
    if seeds["count"] == 1 and not math.isclose(mean, nelbo, rel_tol=CLOSE):
        yield f"{FILE}: seeds.nelbo_nats_mean is {mean}, but the only seed has {nelbo}"
    if seeds["count"] == 2 and not math.isclose(
        abs(nelbo - mean) * math.sqrt(2), spread, rel_tol=SINGLE, abs_tol=SINGLE
    ):
        yield f"{FILE}: seeds.nelbo_nats_sd is {spread}, but nelbo_nats and the mean are not so far"
    far = (seeds["count"] - 1) / math.sqrt(seeds["count"]) * spread  # the most that one can be
    if abs(nelbo - mean) > far + SINGLE * abs(mean):
        yield f"{FILE}: nelbo_nats is farther from seeds.nelbo_nats_mean than any seed can be"


def _epochs(book: Book) -> Iterator[str]:
    """One file of weights has one set of figures."""
    best, last = book.winner["best_epoch"], book.metrics["last_epoch"]
    run = book.runs[book.winner["candidate"]]["trials"][book.winner["seed"]]
    ends = {"first_epoch": 1, "last_epoch": len(run["curve"])}
    for name, epoch in ends.items():
        part = book.metrics[name]
        if epoch == best and any(part[key] != book.metrics[key] for key in last):
            yield f"{FILE}: {name} is the best epoch, but has other figures"


def _components(book: Book) -> int:
    pixels = math.prod(book.manifest["shape"])
    components: int = min(book.config["latent_dim"], book.counts["train"], pixels)
    return components


def _at(tree: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        tree = tree.get(part, {}) if isinstance(tree, dict) else {}
    return None if tree == {} else tree
