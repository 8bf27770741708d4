"""The report's section on the candidates: how they compare, their race, who was passed over."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.figures import markup
from pipeline.figures.inputs import Inputs
from pipeline.figures.markup import Cell
from pipeline.figures.numbers import NONE, from_csv, show
from pipeline.figures.trials import show_position
from pipeline.results.states import State
from pipeline.settings.space import Space

MOST_NAMED = 5  # pruned trials


def candidates(space: Space, inputs: Inputs) -> str:
    """The body of the section."""
    return "\n".join([_table(space, inputs), *_pareto(space, inputs)])


def _table(space: Space, inputs: Inputs) -> str:
    table = inputs.candidates
    names = [name for name in space.searched if name in table]
    rows: list[list[str | Cell]] = []
    for row in table.to_dict("records"):
        mean, search = row["mean_nelbo_nats"], row["search_nelbo_nats"]
        low, high = row["low_nelbo_nats"], row["high_nelbo_nats"]
        figures = [
            show("nats", mean),
            NONE if pd.isna(low) else f"{low:.2f} … {high:.2f}",
            *_behind(row),
            show("nats", search),
            _epochs_of(inputs, row["number"]),
            NONE if pd.isna(mean - search) else f"{mean - search:+.2f}",
            str(row["seeds"]),
        ]
        values = [from_csv(row[name]) for name in names]
        rows.append([str(row["candidate"]), from_csv(row["number"]), *map(Cell, figures), *values])
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
    rungs = [  # an extrapolation is of those alone
        look for look in looks if any(s["least_at_end"] is not None for s in look["standings"])
    ]
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
            " at the last epoch seeds are added for those that cannot be told apart, which says"
            " nothing else of them."
            + (
                " Of two candidates whose seeds scatter alike a rung takes the better one for the"
                f" worse in at most {rungs[0]['level']:.1%} of cases, {_rungs(len(rungs))} in at"
                f" most {sum(look['level'] for look in rungs):.1%}.".replace("%", " %")
                if rungs
                else ""
            )
        ),
        markup.table(headers, rows),
    ]


def _rungs(count: int) -> str:
    return f"the {count} rungs here" if count > 1 else "the one here"


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
            f"A pruned trial is no candidate. Lower when stopped than the last candidate at its end"
            f" stood {len(pruned)}: {shown}. At those epochs others stood lower still, which is why"
            " they were stopped; what they would have reached is not known, so that they are not"
            " ranked. `search.pruner: none` ranks all."
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
        show("nats", row["difference_nats"]),
        NONE if pd.isna(low) else f"{low:.2f} … {high:.2f}",
        NONE if pd.isna(seeds) else f"{seeds:.2f}, {images:.2f}",
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
