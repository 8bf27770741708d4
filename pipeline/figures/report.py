"""report.html: one self-contained page that a person would send to a colleague."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pipeline.figures import markup
from pipeline.figures.inputs import Inputs
from pipeline.figures.markup import Cell
from pipeline.figures.reading import READING
from pipeline.figures.rungs import rung_table
from pipeline.figures.trials import show_domain, show_position, show_value
from pipeline.results.states import State
from pipeline.settings.space import Space

NAMES = {
    "nelbo_nats": "NELBO, nats",
    "recon_nats": "reconstruction, nats",
    "kl_nats": "KL, nats",
    "excess_nats": "excess over the entropy floor, nats",
    "bits_per_dim": "bits per dimension",
    "mse_per_pixel": "MSE per pixel",
    "mae_per_pixel": "MAE per pixel",
    "nelbo_samples": "posterior samples of the NELBO",
    "iw_nll_nats": "importance-weighted NLL, nats",
    "iw_samples": "importance samples K",
    "active_units": "active latent units",
}
EPOCHS = {"first_epoch": "first epoch", "last_epoch": "last epoch"}
BITS = {
    "bernoulli": "pseudo-BPD: grey pixels have no Bernoulli density",
    "binarized": "of binarized pixels",
    "discretized_logistic": "of 8-bit pixels",
}
NONE = "–"
MOST_NAMED = 5  # pruned trials
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
    before = {"Search": _rungs(space, inputs)}
    parts = [
        markup.title(title),
        markup.paragraph(_lead(space, inputs), "lead"),
        markup.navigation({name: _anchor(name) for name in links}),
        _section("Result", _result(space, inputs)),
        _section("Candidates", "\n".join([_candidates(space, inputs), *_pareto(space, inputs)])),
        _section("Advice", _advice(advice)),
        *(
            _section(name, "\n".join([*before.get(name, []), *map(_plate, plates)]))
            for name, plates in sections.items()
        ),
        _section("Record", _record(record)),
        _section("Reproduce", _reproduce(space, inputs)),
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
        if full["family"] in space.kind.readers.get(name, (full["family"],))
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
        [_name(key), *(Cell(_show(key, columns[c].get(key))) for c in order)]
        for key in _flat(metrics)
    ]
    return markup.table(["", *order], rows)


def _further(metrics: dict[str, Any]) -> list[str]:
    """Tables of the nested figures other than epochs."""
    parts = []
    for key, value in metrics.items():
        numbers = _numbers(value) if isinstance(value, dict) else {}
        if key in EPOCHS or not numbers:
            continue
        rows: list[list[str | Cell]] = [
            [_name(name), Cell(_show(name, number))] for name, number in numbers.items()
        ]
        parts += [markup.subheading(_name(key).capitalize()), markup.table(["", "value"], rows)]
    return parts


def _candidates(space: Space, inputs: Inputs) -> str:
    table = inputs.candidates
    names = [name for name in space.searched if name in table]
    rows: list[list[str | Cell]] = []
    for row in table.to_dict("records"):
        mean, search = row["mean_nelbo_nats"], row["search_nelbo_nats"]
        low, high = row["low_nelbo_nats"], row["high_nelbo_nats"]
        figures = [
            _show("nats", mean),
            NONE if pd.isna(low) else f"{low:.2f} … {high:.2f}",
            *_behind(row),
            _show("nats", search),
            _epochs_of(inputs, row["number"]),
            NONE if pd.isna(mean - search) else f"{mean - search:+.2f}",
            str(row["seeds"]),
        ]
        values = [_from_csv(row[name]) for name in names]
        rows.append([str(row["candidate"]), _from_csv(row["number"]), *map(Cell, figures), *values])
    headers = ["candidate", "trial", "mean NELBO", "95 % interval", "behind the lowest",
               "95 % interval, paired", "± seeds, images", "in the search", "after epochs",
               "mean − search", "seeds", *names]  # fmt: skip
    winner = next(i for i, row in enumerate(rows) if row[0] == str(inputs.winner["candidate"]))
    return markup.paragraph(
        "Validation NELBO in nats over fresh seeds. Differences from the lowest mean are taken"
        " image by image; their intervals hold for other seeds and other images, and the standard"
        " errors of both (±) say which one dominates. The value in the search was the best of many"
        " noisy ones and flatters (the winner's curse); training longer in the retraining works"
        " against it."
    ) + "\n".join([*_passed_over(inputs), markup.table(headers, rows, winner), *_race(inputs)])


def _race(inputs: Inputs) -> list[str]:
    """Who was compared when, and who was dropped; [] if there was no race."""
    looks = inputs.winner.get("race", [])
    if not looks:
        return []
    rows: list[list[str | Cell]] = []
    for number, look in enumerate(looks, start=1):
        for each in look["standings"]:
            least, at_end = (
                NONE if each[key] is None else f"{each[key]:.2f}"
                for key in ("least", "least_at_end")
            )
            told = "dropped" if at_end != NONE else "told apart"
            figures = [
                str(look["epoch"]),
                str(each["seeds"]),
                f"{each['mean']:.2f}",
                f"{each['behind']:.2f}",
                least,
                at_end,
            ]
            rows.append(
                [str(number), str(each["candidate"]), *map(Cell, figures),
                 told if each["out"] else ""]
            )  # fmt: skip
    headers = ["look", "candidate", "epoch", "seeds", "mean NELBO", "behind the lowest",
               "at least", "at the last epoch", ""]  # fmt: skip
    return [
        markup.subheading("The race"),
        markup.paragraph(
            "Who is behind for sure, as it is and as extrapolated to the last epoch, is dropped;"
            " at the last epoch seeds are added for those that cannot be told apart. Each bound"
            f" errs in at most {looks[0]['level']:.1%} of cases, the {len(looks)} looks together in"
            f" at most {sum(look['level'] for look in looks):.1%}.".replace("%", " %")
        ),
        markup.table(headers, rows),
    ]


def _passed_over(inputs: Inputs) -> list[str]:
    """Why candidates were chosen over pruned trials with a lower NELBO; [] if there are none."""
    trials = inputs.trials
    worst = inputs.candidates["search_nelbo_nats"].max()
    pruned = trials[(trials["state"] == State.PRUNED) & (trials["nelbo_nats"] < worst)]
    if pruned.empty:
        return []
    shown = ", ".join(
        f"{row['number']} ({row['nelbo_nats']:.2f} after {row['epochs']:.0f} epochs)"
        for row in pruned.sort_values("nelbo_nats").head(MOST_NAMED).to_dict("records")
    )
    return [
        markup.paragraph(
            f"A pruned trial is no candidate. {len(pruned)} pruned ones stood lower when they"
            f" were stopped than the last candidate did at its end: {shown}. At those epochs others"
            " stood lower still, which is why they were stopped; what they would have reached is"
            " not known, so they are not ranked. `search.pruner: none` ranks all."
        )
    ]


def _epochs_of(inputs: Inputs, number: Any) -> str:
    """How far the search had trained a candidate."""
    epochs = inputs.trials.loc[inputs.trials["number"] == number, "epochs"]
    return NONE if epochs.empty else f"{epochs.iloc[0]:.0f}"


def _behind(row: dict[str, Any]) -> list[str]:
    """How far a candidate is behind the lowest mean, its interval, and both standard errors."""
    low, high = row["low_difference_nats"], row["high_difference_nats"]
    seeds, images = row["seed_error_nats"], row["image_error_nats"]
    return [
        _show("nats", row["difference_nats"]),
        NONE if pd.isna(low) else f"{low:.2f} … {high:.2f}",
        NONE if pd.isna(seeds) else f"{seeds:.2f}, {images:.2f}",
    ]


def _rungs(space: Space, inputs: Inputs) -> list[str]:
    """How far trials came; [] where none pauses."""
    if len(space.search.pauses) == 1 or inputs.parts.empty:
        return []
    rows: list[list[str | Cell]] = [
        [*(Cell(str(count)) for count in row[:-1]), Cell(_show("nats", row[-1]))]
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


def _pareto(space: Space, inputs: Inputs) -> list[str]:
    """The trials on the Pareto front, by rising rate; [] for a single objective."""
    if "pareto" not in inputs.best:
        return []
    front = inputs.trials[inputs.trials["number"].isin(inputs.best["pareto"])]
    rows: list[list[str | Cell]] = [
        [
            str(trial["number"]),
            *(Cell(f"{trial[key]:.2f}") for key in ("kl_nats", "recon_nats", "nelbo_nats")),
            *(show_position(trial[name], domain) for name, domain in space.searched.items()),
        ]
        for trial in front.sort_values("kl_nats").to_dict("records")
    ]
    headers = ["trial", "KL, nats", "reconstruction, nats", "NELBO, nats", *space.searched]
    return [markup.subheading("The Pareto front of the search"), markup.table(headers, rows)]


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
        "Candidates": _section(
            "Candidates", "\n".join([_candidates(space, inputs), *_pareto(space, inputs)])
        ),
        "Search": "\n".join(_rungs(space, inputs)),
        "Reproduce": _section("Reproduce", _reproduce(space, inputs)),
    }


def _reproduce(space: Space, inputs: Inputs) -> str:
    return "\n".join(
        [
            markup.paragraph("In the project's folder, either of:"),
            markup.commands(["dvc repro", f"python -m pipeline run {space.name}"]),
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


def _flat(metrics: dict[str, Any]) -> list[str]:
    return [key for key, value in metrics.items() if _is_number(value)]


def _numbers(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested mappings under dotted names."""
    found: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{key}.")
        elif _is_number(value):
            found[f"{prefix}{key}"] = value
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name(key: str) -> str:
    """A readable name: dots separate groups, and a known figure may have words around it."""
    *groups, last = key.split(".")
    known = next((name for name in NAMES if name in last), "")
    before, _, after = last.partition(known) if known else (last, "", "")
    parts = [*groups, before, NAMES.get(known, ""), after]
    return " · ".join(part.strip("_").replace("_", " ") for part in parts if part)


def _show(key: str, value: Any) -> str:
    if value is None or pd.isna(value):
        return NONE
    if isinstance(value, int):
        return str(value)
    if "bits_per_dim" in key:
        return f"{value:.4f}"
    return f"{value:.2f}" if "nats" in key else f"{value:.4g}"


def _from_csv(value: Any) -> str:
    """A cell as pandas read it: whole floats come from columns with empty cells."""
    if isinstance(value, float):
        return NONE if pd.isna(value) else f"{value:g}" if value.is_integer() else f"{value:.3g}"
    return str(value)
