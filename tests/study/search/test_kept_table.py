"""Tables of kept trials: what is written is read again, and what is broken is refused in a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from kept_trials import DATA, SETTLED, kept, origin
from studies import trial, whole

from pipeline.errors import UserError
from pipeline.results.states import State
from pipeline.seeds import derive_seed
from pipeline.settings.own_files import Source
from pipeline.settings.space import parse_space
from pipeline.study.identity import search_study
from pipeline.study.search.kept_from_ledger import kept_of, merged, origin_of
from pipeline.study.search.kept_table import Kept, read_table, table_text

TRIALS = [
    kept(0, lr=0.001),
    kept(1, (8.0, 7.5), "paused", lr=0.002),
    kept(2, (8.0,), "failed", lr=0.5),
    kept(3, hidden=[64], optimizer="sgd", momentum=0.5),
]


def text(trials: list[Kept] = TRIALS) -> str:
    origins = {each.origin.study: each.origin for each in trials}
    return table_text(list(origins.values()), [each.line for each in trials])


def changed(change: Callable[[list[Any]], object]) -> str:
    """A table whose lines were edited by someone who has also made its digest anew."""
    lines = [json.loads(line) for line in text().splitlines()]
    change(lines)
    rest = "".join(json.dumps(line) + "\n" for line in lines[1:])
    lines[0] |= {"sha256": hashlib.sha256(rest.encode()).hexdigest()}
    return json.dumps(lines[0]) + "\n" + rest


def test_what_is_written_is_read_again() -> None:
    assert read_table(text(), "x") == TRIALS
    assert text(read_table(text(), "x")) == text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "line 1: must be an object of JSON"),
        ("number,state\n0,complete\n", "line 1: must be an object of JSON"),
        ('{"kept": 1}\n', "must be a table of kept trials"),
        (text().replace('{"kept": 1', '{"kept": 2'), "is of version 2, but this program reads 1"),
        (text().replace("0.002", "0.003"), "was edited"),
        (text()[:-1], "was edited"),
        (text() + text().splitlines()[-1] + "\n", "was edited"),
        (changed(lambda lines: lines[2].update(host="h")), "line 3: unknown key `host`"),
        (changed(lambda lines: lines[2].pop("seed")), "line 3: seed: is required"),
        (changed(lambda lines: lines[1].update(epochs="4")), "line 2: epochs: must be"),
        (changed(lambda lines: lines.append(lines[2])), "line 7: trial 0 of old-0123456789ab is "),
        (changed(lambda lines: lines.append({**lines[2], "number": 9})), "trial 9 of old-0123456"),
        (changed(lambda lines: lines.append(lines[1])), "line 7: study old-0123456789ab is there"),
        (changed(lambda lines: lines[2].update(study="y")), "line 3: study: y has no line before"),
        (changed(lambda lines: lines[2]["parameters"].update(lr=-1.0)), "line 3: parameters.lr:"),
        (changed(lambda lines: lines[2]["parameters"].update(lr="1")), "line 3: parameters.lr:"),
        (
            changed(lambda lines: lines[2]["parameters"].update(q=1)),
            "line 3: parameters.q: is no hyper",
        ),
        (changed(lambda lines: lines[2]["parameters"].update(family="a.py:B")), "is of a file"),
        (changed(lambda lines: lines[2].update(state="done")), "line 3: state: must be one of"),
        (changed(lambda lines: lines[2].update(state="failed")), "line 3: state: a trial that"),
        (changed(lambda lines: lines[4].update(reason=None)), "line 5: state: a trial that failed"),
        (changed(lambda lines: lines[2]["curve"].pop()), "line 3: result: must be of the 3 epochs"),
        (changed(lambda lines: lines[2]["curve"][1].pop("lr")), "line 3: curve: epoch 2 must have"),
        (changed(lambda lines: lines[2]["curve"][1].update(lr=None)), "epoch 2 must hold finite"),
        (changed(lambda lines: lines[2]["result"].update(nelbo_nats=4.0)), "must be that of epoch"),
        (changed(lambda lines: lines[2]["result"].update(weights=float("nan"))), "line 3: must be"),
    ],
)
def test_a_broken_table_is_refused_in_one_line(content: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        read_table(content, "t.jsonl")
    message = str(refused.value)
    assert message.startswith("t.jsonl: ")
    assert said in message
    assert "\n" not in message


def test_a_family_of_ones_own_is_known_by_its_file() -> None:
    own = origin(sources={"a.py": "f" * 64}, settled=SETTLED | {"width": 5})
    trials = [kept(0, of=own, family="a.py:Mine", width=7), kept(1, of=own)]
    assert read_table(text(trials), "x") == trials


def test_a_trial_has_the_hyperparameters_of_all_families_of_its_space() -> None:
    trials = [kept(0, of=origin(settled=SETTLED | {"blocks": 1}), family="conv_pool")]
    assert read_table(text(trials), "x") == trials


OWN = """
@dataclass(frozen=True)
class Net:
    filters: int = hyperparameter(16, meaning="of another default than ours", low=1, high=99)
"""


def test_what_a_trial_does_not_have_is_the_default_of_its_own_family() -> None:
    source = Source(text=OWN, sha256=hashlib.sha256(OWN.encode()).hexdigest())
    parameters = {
        "family": "a.py:Net",
        "optimizer": {"choices": ["adam", "sgd"]},
        "filters": {"choices": [8, 64], "when": {"optimizer": "sgd"}},
    }
    raw = {"data": {"name": "digits"}, "parameters": parameters}
    space = parse_space("x", raw, "x.yaml", lambda _: source)
    made = origin_of("x-0", search_study(space, DATA).spec)
    chosen = {"optimizer": "adam"}
    trained = space.hyperparameters(chosen).model_dump()
    assert Kept(made, kept(of=made, **chosen).line).setting == trained


class TestOfTheLedger:
    def test_a_trial_is_what_its_last_finished_part_has_left(self) -> None:
        curve = kept().line.curve
        result = kept().line.result
        arithmetic = {"device": "cpu", "proposals": "numpy"}
        timed = [{**record, "seconds": 1.0, "ended_ms": 5} for record in curve]
        made = trial(0, state="paused", result=result, reason=None, meta={"arithmetic": arithmetic})
        parts = [
            whole(made, number=0, curve=timed[:2], until=2),
            whole(trial(1, reason="a\nb"), number=1),
            whole(made, number=2, curve=timed, since=2, until=4, state="running", result=None),
        ]
        first, second = kept_of(origin(), 7, parts)
        assert (first.line.state, first.line.curve) == ("paused", curve[:2])
        assert first.line.seed == derive_seed(7, "trial", 0)
        assert first.line.arithmetic == {"device": "cpu"}
        assert (second.line.state, second.line.reason, second.line.number) == ("failed", "a", 1)

    def test_what_was_kept_before_keeps_its_seed(self) -> None:
        meta = {"kept": {"study": "older", "number": 5, "seed": 11}}
        made = trial(0, 5.0, meta=meta)
        parts = [
            whole(made, until=2, state=State.PAUSED, meta=meta),
            whole(made, number=1, since=2, until=4, meta={}),
        ]
        (line,) = (each.line for each in kept_of(origin(), 7, parts))
        assert (line.seed, line.number) == (11, 0)

    def test_a_trial_that_has_gone_on_is_there_once(self) -> None:
        later = origin("new-0123456789ab")
        first = [kept(0, (9.0, 7.0), "paused", lr=0.1), kept(1, lr=0.2)]
        second = [kept(0, of=later, lr=0.1), kept(2, of=later, lr=0.3)]
        found = merged([first, second])
        assert [each.line.parameters["lr"] for each in found] == [0.1, 0.2, 0.3]
        assert [len(each.line.curve) for each in found] == [4, 4, 4]
        assert read_table(text(found), "x") == found
