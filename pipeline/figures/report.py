"""report.html: one self-contained page that a person would send to a colleague."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from pipeline.figures import markup
from pipeline.figures.candidate_table import candidates
from pipeline.figures.inputs import Inputs
from pipeline.figures.markup import Cell
from pipeline.figures.numbers import readable, show
from pipeline.figures.reading import READING
from pipeline.figures.rungs import rung_table
from pipeline.figures.trials import show_domain, show_value
from pipeline.results.keys import flat
from pipeline.settings.space import Space

EPOCHS = {"first_epoch": "first epoch", "last_epoch": "last epoch"}
BITS = {
    "bernoulli": "pseudo-BPD: grey pixels have no Bernoulli density",
    "binarized": "of binarized pixels",
    "discretized_logistic": "of 8-bit pixels",
}
DENSITY = "of a density: may be negative, compare within this likelihood only"


@dataclass(frozen=True)
class Plate:
    """A figure of the report: drawn, as PNG, or the reason why there is none."""

    name: str
    title: str
    caption: str
    content: Figure | bytes | str


def build(
    space: Space,
    inputs: Inputs,
    sections: dict[str, list[Plate]],
    advice: list[str],
    record: list[str],
) -> str:
    """The whole page. `sections` maps a section's title to its figures, `record` is what does not
    follow from the records."""
    title = f"{space.name}: a VAE for {space.data.name}"
    links = ["Result", "Candidates", "Advice", *sections, "Record", "Reproduce"]
    said = statements(space, inputs)
    parts = [
        markup.title(title),
        said["Lead"],
        markup.navigation({name: _anchor(name) for name in links}),
        said["Result"],
        said["Candidates"],
        _section("Advice", _advice(advice)),
        *(
            _section(name, "\n".join(filter(None, [said.get(name), *map(_plate, plates)])))
            for name, plates in sections.items()
        ),
        _section("Record", _record(record)),
        said["Reproduce"],
    ]
    return markup.page(title, "\n".join(parts))


def _section(title: str, body: str) -> str:
    return markup.heading(title, _anchor(title)) + "\n" + body


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _plate(plate: Plate) -> str:
    if isinstance(plate.content, str):
        return markup.subheading(plate.title) + markup.paragraph(plate.content, "note")
    assert isinstance(plate.content, bytes)
    return markup.image(plate.content, plate.title, plate.caption, READING.get(plate.name, ""))


def _lead(space: Space, inputs: Inputs) -> str:
    trials = inputs.best["trials"]
    states = ", ".join(f"{count} {state}" for state, count in trials.items() if count) or "none"
    if kept := inputs.best.get("kept"):
        states += f"; {kept['trials']} were kept of earlier searches"
    shape = "×".join(str(side) for side in inputs.manifest["shape"])
    return (
        f"Images {shape}, likelihood {space.model.likelihood}. {sum(trials.values())} trials"
        f" ({states}) of up to {space.search.epochs} epochs; the best {len(inputs.candidates)}"
        f" retrained on up to {space.retrain.seeds} fresh seeds of up to"
        f" {space.retrain.epochs} epochs;"
        f" the winner measured on {len(inputs.images)} test images."
    )


def _result(space: Space, inputs: Inputs) -> str:
    return "\n".join(
        [
            f'<div class="tiles">{"".join(_tiles(space, inputs))}</div>',
            markup.paragraph(inputs.winner["sentence"]),
            markup.subheading("The winning hyperparameters"),
            _hyperparameters(space, inputs.winner["parameters"]),
            markup.subheading("Test set: first epoch beside best epoch"),
            _epochs_table(inputs.metrics),
            *_further(inputs.metrics),
        ]
    )


def _tiles(space: Space, inputs: Inputs) -> list[str]:
    """The headline figures; those that a likelihood or a sweep does without are left out."""
    metrics, baselines = inputs.metrics, inputs.metrics["baselines"]
    tiles = [
        ("test NELBO, nats per image", metrics["nelbo_nats"], ".2f",
         f"reconstruction {metrics['recon_nats']:.2f} + KL {metrics['kl_nats']:.2f}"),
        ("bits per dimension", metrics["bits_per_dim"], ".4f",
         BITS.get(space.model.likelihood, DENSITY)),
        ("train-mean image, nats", baselines["mean_image_nelbo_nats"], ".2f",
         "the NELBO to beat: the same answer to every image"),
    ]  # fmt: skip
    if "excess_nats" in metrics:
        floor = metrics["nelbo_nats"] - metrics["excess_nats"]
        tiles.append(("excess, nats", metrics["excess_nats"], ".2f",
                      f"over the entropy floor of the pixels, {floor:.2f}"))  # fmt: skip
    if "iw_nll_nats" in metrics:
        tiles.append(("importance-weighted NLL, nats", metrics["iw_nll_nats"], ".2f",
                      f"bound with K = {metrics['iw_samples']} samples"))  # fmt: skip
    tiles.append(("MSE per pixel", metrics["mse_per_pixel"], ".4f",
                  f"PCA with {baselines['pca_components']} components:"
                  f" {baselines['pca_mse_per_pixel']:.4f}"))  # fmt: skip
    return [markup.tile(label, format(value, form), note) for label, value, form, note in tiles]


def _hyperparameters(space: Space, chosen: dict[str, Any]) -> str:
    """Those that the model reads: searched and fixed ones as a table, defaults as a line."""
    full = space.hyperparameters(chosen).model_dump()
    read = {
        name: value
        for name, value in full.items()
        if space.reads(full["family"], name)
        and (name not in space.searched or space.searched[name].active(full))
    }
    rows: list[list[str | Cell]] = [
        [name, Cell(show_value(read[name])), f"searched: {show_domain(domain)}"]
        for name, domain in space.searched.items()
        if name in read
    ]
    rows += [[name, Cell(show_value(read[name])), "fixed"] for name in space.fixed if name in read]
    defaults = [
        f"{name} {show_value(value)}"
        for name, value in read.items()
        if name not in space.searched and name not in space.fixed
    ]
    table = markup.table(["hyperparameter", "value", "origin"], rows)
    return table + markup.paragraph(f"Defaults: {', '.join(defaults)}.", "note")


def _epochs_table(metrics: dict[str, Any]) -> str:
    columns = {title: metrics[key] for key, title in EPOCHS.items() if key in metrics}
    columns = {**columns, "best epoch": metrics}
    order = [c for c in ("first epoch", "best epoch", "last epoch") if c in columns]
    rows: list[list[str | Cell]] = [
        [readable(key), *(Cell(show(key, columns[c].get(key))) for c in order)]
        for key, value in metrics.items()
        if isinstance(value, int | float)
    ]
    return markup.table(["", *order], rows)


def _further(metrics: dict[str, Any]) -> list[str]:
    """Tables of the nested figures other than epochs."""
    parts = []
    for key, value in metrics.items():
        numbers = flat(value) if isinstance(value, dict) else {}
        if key in EPOCHS or not numbers:
            continue
        rows: list[list[str | Cell]] = [
            [readable(name), Cell(show(name, number))] for name, number in numbers.items()
        ]
        parts += [markup.subheading(readable(key).capitalize()), markup.table(["", "value"], rows)]
    return parts


def _rungs(space: Space, inputs: Inputs) -> list[str]:
    """How far trials came; [] where none pauses."""
    if len(space.search.pauses) == 1 or inputs.parts.empty:
        return []
    rows: list[list[str | Cell]] = [
        [*(Cell(str(count)) for count in row[:-1]), Cell(show("nats", row[-1]))]
        for row in rung_table(space.search.pauses, inputs.parts).itertuples(index=False)
    ]
    headers = ["rung, epochs", "trials on the way", "reached it", "went on", "best NELBO, nats"]
    return [
        markup.paragraph(
            f"Trials pause at rungs; of those that have reached one the best"
            f" 1/{space.search.reduction_factor} go on, from where they were."
        ),
        markup.table(headers, rows),
    ]


def _advice(lines: list[str]) -> str:
    if not lines:
        return markup.paragraph("Nothing stands out in the trials.", "note")
    return markup.bullets(lines)


def _record(findings: list[str]) -> str:
    if findings:
        return markup.paragraph("Of what is stated here, this does not follow:") + markup.bullets(
            findings
        )
    return markup.paragraph(
        "Every proposal, promotion, pruning, sum, rank and interval, and the winner, were"
        " recomputed from the records of the trials: all of them follow."
    )


def statements(space: Space, inputs: Inputs) -> dict[str, str]:
    """The parts of the page that state figures and words of the earlier stages, by section."""
    return {
        "Lead": markup.paragraph(_lead(space, inputs), "lead"),
        "Result": _section("Result", _result(space, inputs)),
        "Candidates": _section("Candidates", candidates(space, inputs)),
        "Search": "\n".join(_rungs(space, inputs)),
        "Reproduce": _section("Reproduce", _reproduce(space, inputs)),
    }


def _reproduce(space: Space, inputs: Inputs) -> str:
    return "\n".join(
        [
            markup.paragraph("In the project's folder; the latter if params.yaml names the sweep:"),
            markup.commands(
                [f"python -m pipeline run {space.name}", f"dvc repro render@{space.name}"]
            ),
            markup.table(
                ["", ""],
                [
                    ["search space", f"search_spaces/{space.name}.yaml"],
                    ["study", str(inputs.best["study"])],
                    ["winning trial", show_value(inputs.winner["number"])],
                    ["winning seed", str(inputs.winner["seed"])],
                    ["data SHA-256", str(inputs.manifest["sha256"])],
                    *_arithmetic(inputs),
                ],
            ),
        ]
    )


def _arithmetic(inputs: Inputs) -> list[list[str | Cell]]:
    """What the last bits of trials, candidates and test figures depend on."""
    records = {"trials": inputs.best, "candidates": inputs.winner, "test figures": inputs.metrics}
    return [
        [f"arithmetic of the {name}", str(record.get("arithmetic", "unknown"))]
        for name, record in records.items()
    ]
