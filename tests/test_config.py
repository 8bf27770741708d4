"""Search spaces and machine.yaml: what is accepted, and one useful line for what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Machine, Space, load_machine, load_space, parse_space
from pipeline.errors import UserError

ROOT = Path(__file__).parent.parent
DIGITS = "data: {name: digits}\n"
GRID = "parameters: {latent_dim: {choices: [4, 8, 16]}}\nsearch: {sampler: grid, trials: 3}\n"
FULL = """
data: {name: npz, path: mine.npz, limit: 100, validation: {fraction: 0.2, seed: 1}}
model: {likelihood: gaussian, sigma: optimal}
parameters:
  family: {choices: [mlp, conv_pool]}
  filters: {low: 8, high: 32, step: 8, when: {family: conv_pool}}
  hidden: {choices: [[64], [64, 32]], when: {family: mlp}}
  lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  patience: {choices: [null, 3]}
  restore_best: false
search: {sampler: gp, pruner: hyperband, trials: 7, fallback: {lr: 1.0e-3}}
retrain: {top: 1}
render: {projections: [umap]}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "search_spaces").mkdir()
    return tmp_path


def load(root: Path, text: str) -> Space:
    (root / "search_spaces" / "x.yaml").write_text(text, encoding="utf-8")
    return load_space(root, "x")


def complaint(root: Path, text: str) -> str:
    """The one line that a wrong file earns, without the file's name."""
    with pytest.raises(UserError) as caught:
        load(root, text)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    for jargon in ("Input should", "Value error", "pydantic", "instance of", "<unicode string>"):
        assert jargon not in message
    assert message.startswith("search_spaces/x.yaml: ")
    return message.removeprefix("search_spaces/x.yaml: ")


def parameter(text: str) -> str:
    return f"{DIGITS}parameters: {{{text}}}\n"


def search(text: str, parameters: str = "lr: 0.1") -> str:
    return f"{DIGITS}parameters: {{{parameters}}}\nsearch: {{{text}}}\n"


class TestAccepted:
    @pytest.mark.parametrize(
        "name", sorted(p.stem for p in (ROOT / "search_spaces").glob("*.yaml"))
    )
    def test_the_committed_sweeps(self, name: str) -> None:
        assert load_space(ROOT, name).name == name

    def test_a_section_left_out_has_its_defaults(self, root: Path) -> None:
        space = load(root, DIGITS)
        assert (space.search.trials, space.search.sampler) == (20, "tpe")
        assert (space.fixed, space.searched) == ({}, {})
        assert space.hyperparameters({}).lr == 1e-3

    def test_everything_at_once(self, root: Path) -> None:
        space = load(root, FULL)
        assert space.model.sigma == "optimal"
        assert space.fixed == {"restore_best": False}
        assert set(space.searched) == {"family", "filters", "hidden", "lr", "patience"}
        assert space.search.fallback == {"lr": 1e-3}

    def test_integers_stand_for_reals(self, root: Path) -> None:
        space = load(root, "data: {name: digits}\nmodel: {likelihood: gaussian, sigma: 1}\n"
                           "parameters: {lr: 1}\nrender: {grid_range: 2}\n")  # fmt: skip
        assert (space.model.sigma, space.fixed["lr"], space.render.grid_range) == (1.0, 1.0, 2.0)
        assert isinstance(space.fixed["lr"], float)

    def test_anchors_and_merge_keys(self, root: Path) -> None:
        text = (
            "data: {name: digits, validation: &split {seed: 3}, test: {<<: *split, fraction: 0.5}}"
        )
        data = load(root, text).data
        assert (data.test.seed, data.test.fraction, data.validation.seed) == (3, 0.5, 3)

    def test_the_job_file_holds_it_without_loss(self, root: Path) -> None:
        space = load(root, FULL)
        assert Space.model_validate_json(space.model_dump_json()) == space

    def test_chosen_values_win_over_fixed_ones_and_those_over_defaults(self, root: Path) -> None:
        space = load(root, parameter("beta: 2.0, lr: 0.5"))
        values = space.hyperparameters({"lr": 0.25})
        assert (values.lr, values.beta, values.momentum) == (0.25, 2.0, 0.9)


WRONG_YAML = {
    "a list": ("- a\n", "must be a mapping of keys to values, but got ['a']"),
    "a word": ("hello", "must be a mapping of keys to values, but got 'hello'"),
    "nothing": ("# all comments\n", "data: is required: add it"),
    "a tab": ("data:\n\tname: digits\n", "is not valid YAML: line 2: found character '\\t'"),
    "an open brace": ("data: {name: digits\n", "is not valid YAML: line 2: expected ',' or '}'"),
    "an unknown alias": ("data: *x\n", "line 1: found undefined alias 'x'"),
    "a Python object": (
        "data: !!python/object/apply:os.system ['true']\n",
        "line 1: could not determine a constructor for the tag",
    ),
    "two documents": (f"{DIGITS}---\n{DIGITS}", "line 2: but found another document"),
    "a control character": ("\x00", "special characters are not allowed"),
    "a key twice": (DIGITS + DIGITS, "line 2: the key `data` is given twice"),
    "a deep key twice": (search("trials: 1, trials: 2"), "the key `trials` is given twice"),
    "a number as key": (f"{DIGITS}1: 2\n", "line 2: a key must be text, but got `1`"),
    "a boolean as key": (f"{DIGITS}yes: 2\n", "a key must be text, but got `yes`: put it in quo"),
    "null as key": (parameter("null: 2"), "a key must be text, but got `null`"),
    "a list as key": (f"{DIGITS}[a]: 2\n", "a key must be text"),
    "a number among names": (parameter("lr: {low: 0.1, high: 1, 3: 4, foo: 1}"), "got `3`"),
    "a merge of a number": (search("<<: 3"), "expected a mapping or list of mappings"),
    "a tag that does not fit": ("data: !!int foo\n", "is not valid YAML: invalid literal for int"),
    "a boolean that is none": ("data: !!bool foo\n", "is not valid YAML: 'foo'"),
    "a month that is none": ("data: 2020-13-45\n", "is not valid YAML: month must be in 1..12"),
    "a number of 5000 digits": (parameter(f"lr: {'9' * 5000}"), "is not valid YAML: Exceeds the"),
    "deep nesting": (f"data: {'[' * 3000}{']' * 3000}", "is nested too deeply: flatten it"),
    "itself": ("data: &a {name: *a}\n", "data.name: must be 'fashion-mnist', 'mnist', 'digits'"),
    "a bomb": (
        f"a: &a [{'x,' * 9}]\nb: &b [{'*a,' * 9}]\nc: &c [{'*b,' * 9}]\ndata: {{name: *c}}\n",
        "data.name: must be",
    ),
}

WRONG_SECTIONS = {
    "unknown section": ("serach: {}\n", "unknown key `serach`: did you mean `search`? valid keys: "
                        "data, model, parameters, search, retrain, evaluate, render"),
    "internal name": ("fixed: {}\n", "unknown key `fixed`: valid keys: data, model, parameters"),
    "its own name": ("name: y\n", "unknown key `name`: valid keys: data, model, parameters"),
    "empty section": ("search:\n", "search: must be a mapping, but got None"),
    "empty parameters": ("parameters:\n", "parameters: must be a mapping, but got None"),
    "parameters as list": ("parameters: [lr]\n", "parameters: must be a mapping, but got ['lr']"),
    "model as word": ("model: bernoulli\n", "model: must be a mapping, but got 'bernoulli'"),
    "search key": ("search: {trails: 1}\n", "unknown key `search.trails`: did you mean `trials`? "
                   "valid keys: sampler, startup_trials, pruner,"),
    "retrain key": ("retrain: {n: 1}\n", "unknown key `retrain.n`: valid keys: top, seeds, epochs"),
    "evaluate key": ("evaluate: {iw: 1}\n", "unknown key `evaluate.iw`: valid keys: nelbo_samples"),
    "render key": ("render: {point: 9}\n", "unknown key `render.point`: did you mean `points`?"),
    "model key": ("model: {family: mlp}\n", "unknown key `model.family`: valid keys: likelihood,"),
    "trials as boolean": ("search: {trials: true}\n", "search.trials: must be a valid integer, but"
                          " got True"),
    "trials as text": ("search: {trials: '5'}\n", "search.trials: must be a valid integer"),
    "trials as real": ("search: {trials: 5.0}\n", "search.trials: must be a valid integer"),
    "trials 0": ("search: {trials: 0}\n", "search.trials: must be greater than or equal to 1"),
    "trials infinite": ("search: {trials: .inf}\n", "search.trials: must be a"),
    "trials null": ("search: {trials: null}\n", "search.trials: must be a valid integer, but got N"),
    "trials huge": (f"search: {{trials: {10**23}}}\n", "search.trials: must be less than or equal"),
    "parallelism 0": ("search: {parallelism: 0}\n", "search.parallelism: must be greater than or"),
    "seed negative": ("search: {seed: -1}\n", "search.seed: must be greater than or equal to 0"),
    "seed huge": (f"search: {{seed: {2**63}}}\n", "search.seed: must be less than 9223372036854775"),
    "sampler": ("search: {sampler: tpee}\n", "search.sampler: must be 'tpe', 'random', 'grid', "
                "'gp' or 'cmaes', but got 'tpee'"),
    "percentile": ("search: {percentile: .nan}\n", "search.percentile: must be a finite number"),
    "reduction factor": ("search: {reduction_factor: 1}\n", "must be greater than or equal to 2"),
    "no objective": ("search: {objectives: []}\n", "search.objectives: List should have at least"),
    "objectives in another order": ("search: {objectives: [recon_nats, kl_nats]}\n",
                                    "search: objectives must be [nelbo_nats] or [kl_nats, recon_"),
    "objectives as word": ("search: {objectives: nelbo_nats}\n", "must be a valid list"),
    "unknown objective": ("search: {objectives: [elbo]}\n", "search.objectives.0: must be 'nelbo_"),
    "pruned objectives": ("search: {objectives: [kl_nats, recon_nats]}\n", "set `pruner: none`"),
    "cmaes on two": ("search: {objectives: [kl_nats, recon_nats], pruner: none, sampler: cmaes}\n",
                     "search.sampler: cmaes has one objective: use tpe, random or gp"),
    "top": ("retrain: {top: 21}\n", "retrain.top: must be less than or equal to 20, but got 21"),
    "probe as number": ("evaluate: {probe: 1}\n", "evaluate.probe: must be a valid boolean"),
    "projection": ("render: {projections: [pac]}\n", "render.projections.0: must be 'pca', 'tsne'"),
    "infinite grid": ("render: {grid_range: .inf}\n", "render.grid_range: must be a finite number"),
    "likelihood": ("model: {likelihood: poisson}\n", "model.likelihood: must be 'bernoulli', 'bina"),
    "grey levels": ("model: {likelihood: discretized_logistic}\n", "needs 8-bit values, but digits"),
    "sigma of bernoulli": ("model: {sigma: 1.0}\n", "model: `sigma` belongs to gaussian, but"),
    "sigma 0": ("model: {likelihood: gaussian, sigma: 0}\n", "`sigma > 0` must hold, but got 0"),
    "sigma nan": ("model: {likelihood: gaussian, sigma: .nan}\n", "model.sigma: must be a finite"),
    "sigma true": ("model: {likelihood: gaussian, sigma: true}\n", "must be a valid number or "
                   "'optimal', but got True"),
    "sigma as word": ("model: {likelihood: gaussian, sigma: best}\n", "model.sigma: must be a valid"
                      " number or 'optimal', but got 'best'"),
}  # fmt: skip

WRONG_DATA = {
    "nothing": ("model: {}\n", "data: is required: add it"),
    "no name": ("data: {limit: 5}\n", "data.name: is required: add it"),
    "unknown name": ("data: {name: cifar}\n", "or 'pickle', but got 'cifar'"),
    "as word": ("data: digits\n", "data: must be a mapping, but got 'digits'"),
    "unknown key": ("data: {name: digits, foo: 1}\n", "unknown key `data.foo`: valid keys: name, "
                    "path, limit, validation, test"),
    "deeper unknown key": ("data: {name: digits, validation: {fractoin: 0.1}}\n", "unknown key "
                           "`data.validation.fractoin`: did you mean `fraction`? valid keys: frac"),
    "unknown test key": ("data: {name: digits, test: {x: 1}}\n", "unknown key `data.test.x`: valid"),
    "own without path": ("data: {name: npz}\n", "data: name: npz needs `path`, the file or folder"),
    "known with path": ("data: {name: mnist, path: x}\n", "data: name: mnist takes no `path`"),
    "path as number": ("data: {name: npz, path: 3}\n", "data.path: must be a valid string, but got"),
    "limit as boolean": ("data: {name: digits, limit: true}\n", "data.limit: must be a valid integ"),
    "limit too small": ("data: {name: digits, limit: 1}\n", "data.limit: must be greater than or"),
    "fraction 0": ("data: {name: digits, validation: {fraction: 0}}\n", "data.validation.fraction: "
                   "must be greater than 0, but got 0"),
    "fraction 1": ("data: {name: digits, test: {fraction: 1}}\n", "data.test.fraction: must be less"),
    "fraction as text": ("data: {name: digits, test: {fraction: '1'}}\n", "must be a valid number"),
    "validation as number": ("data: {name: digits, validation: 0.1}\n", "data.validation: must be a "
                             "mapping, but got 0.1"),
}  # fmt: skip

WRONG_PARAMETERS = {
    "unknown": ("learning_rate: 0.1", "parameters.learning_rate: unknown hyperparameter; valid: f"),
    "text for number": ("lr: 1e-3", "parameters.lr: must be a valid number, but got '1e-3' (YAML "
                        "reads `1e-3` as text: write `1.0e-3`)"),
    "infinite": ("lr: .inf", "parameters.lr: must be a finite number, but got inf"),
    "infinite and unbounded": ("beta: .inf", "parameters.beta: must be a finite number"),
    "not a number": ("lr: .nan", "parameters.lr: must be a finite number, but got nan"),
    "negative": ("lr: -1", "parameters.lr: must be greater than 0, but got -1"),
    "boolean for number": ("lr: true", "parameters.lr: must be a valid number, but got True"),
    "boolean for integer": ("batch_size: true", "parameters.batch_size: must be a valid integer"),
    "number for boolean": ("restore_best: 1", "parameters.restore_best: must be a valid boolean"),
    "null": ("lr: null", "parameters.lr: must be a valid number, but got None"),
    "list": ("lr: [0.1]", "parameters.lr: must be a valid number, but got [0.1]"),
    "date": ("lr: 2020-01-01", "parameters.lr: must be a valid number, but got datetime.date"),
    "real for integer": ("batch_size: 128.0", "parameters.batch_size: must be a valid integer"),
    "text for integer": ("batch_size: '128'", "parameters.batch_size: must be a valid integer"),
    "huge integer": (f"batch_size: {10**30}", "parameters.batch_size: must be less than or equal"),
    "huge real": (f"beta: {10**400}", "parameters.beta: must be a valid number, but got 99"),
    "too many latents": ("latent_dim: 5000", "parameters.latent_dim: must be less than or equal to"),
    "width for widths": ("hidden: 512", "parameters.hidden: must be a valid list, but got 512"),
    "no width": ("hidden: []", "parameters.hidden: List should have at least 1 item"),
    "boolean width": ("hidden: [true]", "parameters.hidden: must be a valid integer, but got True"),
    "huge width": (f"hidden: [{10**20}]", "parameters.hidden: must be less than or equal to 65536"),
    "word": ("optimizer: adamm", "parameters.optimizer: must be 'adam', 'adamw', 'adamax', 'rmsp"),
    "word with a line break": ('optimizer: "a\\nb"', "but got 'a\\nb'"),
    "both warm-ups": ("kl_warmup: 0.1, kl_warmup_epochs: 3", "parameters.kl_warmup: excludes"),
    "both searched": ("kl_warmup: {low: 0.0, high: 0.5}, kl_warmup_epochs: {choices: [0, 3]}",
                      "parameters.kl_warmup: excludes kl_warmup_epochs: give one of the two"),
    "of another family": ("filters: 32", "parameters.filters: read only by family conv_stride or "
                          "conv_pool, but the family is mlp: remove it"),
    "of no searched family": ("family: {choices: [conv_pool, conv_stride]}, hidden: [3]",
                              "parameters.hidden: read only by family mlp, but the family is conv_"),
}  # fmt: skip

WRONG_DOMAINS = {
    "empty": ("lr: {}", "parameters.lr: give a value, `low` and `high`, or `choices`, but got {}"),
    "no high": ("lr: {low: 1}", "parameters.lr: give a value, `low` and `high`, or `choices`"),
    "empty range": ("lr: {low: 0.1, high: 0.1}", "parameters.lr: `low < high` must hold, but got "
                    "(low=0.1, high=0.1): for a single value write the value alone"),
    "swapped": ("lr: {low: 0.2, high: 0.1}", "parameters.lr: `low < high` must hold"),
    "infinite": ("lr: {low: 0.1, high: .inf}", "parameters.lr: must be a finite number, but got inf"),
    "not a number": ("lr: {low: .nan, high: 1.0}", "parameters.lr: must be a finite number"),
    "text": ("lr: {low: 1e-4, high: 1.0e-2}", "but got '1e-4' (YAML reads `1e-3` as text"),
    "log from 0": ("beta: {low: 0, high: 1, log: true}", "parameters.beta: a log range must stay "
                   "above 0, but got low=0"),
    "log as text": ("lr: {low: 0.1, high: 1, log: 'yes'}", "parameters.lr.log: must be a valid bool"),
    "log and step": ("lr: {low: 0.1, high: 1, log: true, step: 0.1}", "`log` and `step` exclude"),
    "step 0": ("lr: {low: 0.1, high: 1, step: 0}", "`0 < step <= high - low` must hold, but got step"),
    "step not a number": ("lr: {low: 0.1, high: 1, step: .nan}", "lr.step: must be a finite number"),
    "step as text": ("lr: {low: 0.1, high: 1, step: a}", "parameters.lr.step: must be a valid numbe"),
    "step as boolean": ("beta: {low: 0, high: 9, step: true}", "beta.step: must be a valid number"),
    "step too long": ("lr: {low: 0.1, high: 1, step: 1}", "`0 < step <= high - low` must hold"),
    "step too fine": ("lr: {low: 0.1, high: 1, step: 1.0e-15}", "a range has at most 1000000 steps"),
    "step that misses high": ("lr: {low: 0.1, high: 1, step: 0.4}", "`high - low` must be a multiple"
                              " of `step`, but got (low=0.1, high=1.0, step=0.4): set high to 0.9"),
    "broken step of integers": ("batch_size: {low: 32, high: 64, step: 0.5}", "the step of an integ"),
    "real end of integers": ("latent_dim: {low: 4, high: 8.5}", "must be a valid integer, but got 8."),
    "boolean end": ("batch_size: {low: true, high: 64}", "must be a valid integer, but got True"),
    "range of lists": ("hidden: {low: [1], high: [4]}", "a range needs numbers, but got [1]: use `c"),
    "range of words": ("optimizer: {low: adam, high: sgd}", "a range needs numbers, but got 'adam'"),
    "range of booleans": ("restore_best: {low: false, high: true}", "a range needs numbers, but got"),
    "range to null": ("patience: {low: 1, high: null}", "a range needs numbers, but got None: use"),
    "unknown key": ("lr: {low: 0.1, high: 1, lgo: true}", "parameters.lr: unknown key `lgo`; valid: "
                    "high, log, low, step, when"),
    "internal key": ("lr: {low: 0.1, high: 1, integer: true}", "unknown key `integer`; valid: high"),
    "both forms": ("lr: {choices: [0.1], low: 0.1}", "unknown key `low`; valid: choices, when"),
    "no choices": ("lr: {choices: []}", "parameters.lr.choices: List should have at least 1 item"),
    "choices as value": ("lr: {choices: 0.1}", "parameters.lr.choices: must be a valid list, but got"),
    "choices as set": ("lr: {choices: !!set {0.1}}", "a key must be text"),
    "choices alike": ("lr: {choices: [1, 1.0]}", "choices must differ from each other, but got [1.0"),
    "lists alike": ("hidden: {choices: [[8], [8]]}", "choices must differ from each other, but got"),
    "choices of text": ("lr: {choices: [1e-3]}", "but got '1e-3' (YAML reads `1e-3` as text"),
    "choices of dates": ("lr: {choices: [2020-01-01]}", "must be a valid number, but got datetime"),
    "choices infinite": ("beta: {choices: [.inf]}", "must be a finite number, but got inf"),
    "boolean choice": ("batch_size: {choices: [true, 64]}", "must be a valid integer, but got True"),
    "flat choices": ("hidden: {choices: [512, 256]}", "must be a valid list, but got 512"),
    "unknown choice": ("optimizer: {choices: [adam, foo]}", "'rmsprop' or 'sgd', but got 'foo'"),
}  # fmt: skip

SGD = "optimizer: {choices: [adam, sgd]}, "
WRONG_CONDITIONS = {
    "as word": (SGD + "lr: {low: 0.1, high: 1, when: sgd}", "parameters.lr.when: must be a mapping"),
    "null": (SGD + "lr: {low: 0.1, high: 1, when: null}", "parameters.lr.when: must be a mapping"),
    "unknown parent": ("lr: {low: 0.1, high: 1, when: {opt: sgd}}", "parameters.lr: `when` names the "
                       "unknown hyperparameter `opt`"),
    "itself": ("lr: {choices: [0.1, 1], when: {lr: 0.1}}", "`when` may not name lr itself"),
    "a range as parent": ("beta: {low: 1, high: 2}, lr: {low: 0.1, high: 1, when: {beta: 1.0}}",
                          "`when` needs a parent with choices, but beta is a range"),
    "never chosen": (SGD + "lr: {low: 0.1, high: 1, when: {optimizer: adamw}}", "`when` waits for "
                     "optimizer = 'adamw', which is never chosen; possible: ['adam', 'sgd']"),
    "never by default": ("momentum: {low: 0, high: 0.9, when: {optimizer: sgd}}", "`when` waits for "
                         "optimizer = 'sgd', which is never chosen; possible: ['adam']"),
    "one never chosen": (SGD + "lr: {low: 0.1, high: 1, when: {optimizer: [sgd, adamw]}}",
                         "= 'adamw', which is never chosen"),
    "no value": (SGD + "lr: {low: 0.1, high: 1, when: {optimizer: []}}", "`when` lists no value of "
                 "optimizer: add one of ['adam', 'sgd']"),
    "a flat list": ("hidden: {choices: [[8], [4]]}, lr: {low: 0.1, high: 1, when: {hidden: [8]}}",
                    "waits for hidden = 8, which is never chosen; possible: [[8], [4]]"),
    "a circle": ("optimizer: {choices: [adam, sgd], when: {schedule: cosine}}, schedule: {choices: "
                 "[cosine, constant], when: {optimizer: sgd}}", "the `when` clauses form a circle"),
    "a contradiction": (SGD + "schedule: {choices: [cosine, constant], when: {optimizer: sgd}}, "
                        "lr_warmup: {low: 0, high: 0.5, when: {schedule: cosine, optimizer: adam}}",
                        "parameters.lr_warmup: `when` asks for {'schedule': 'cosine', 'optimizer': "
                        "'adam'}, which no trial has at once"),
}  # fmt: skip

WRONG_SEARCHES = {
    "grid of a continuum": ("sampler: grid", "lr: {low: 0.1, high: 1}", "parameters.lr: a grid needs "
                            "`choices` or a `step`"),
    "grid of a log range": ("sampler: grid", "latent_dim: {low: 1, high: 64, log: true}", "a grid "
                            "needs `choices` or a `step`"),
    "too small a grid": ("sampler: grid", "latent_dim: {choices: [4, 8]}", "search.trials: the grid "
                         "has 2 cells, but got 20: set at most 2"),
    "a grid of nothing": ("sampler: grid", "lr: 0.1", "the grid has 1 cells, but got 20"),
    "too large a grid": ("sampler: grid", "latent_dim: {low: 1, high: 4000}, batch_size: {low: 1, "
                         "high: 4000}", "a grid has at most 100000 cells, but got 16000000: use fewer"),
    "fallback as list": ("fallback: [1]", "lr: 0.1", "search.fallback: must be a mapping, but got"),
    "unknown fallback": ("fallback: {foo: 1}", "lr: 0.1", "search.fallback.foo: unknown hyperparam"),
    "boolean fallback": ("fallback: {lr: true}", "beta: 1", "search.fallback.lr: must be a valid"),
    "fallback as range": ("fallback: {lr: {low: 0.1, high: 1}}", "beta: 1", "search.fallback: must "
                          "hold values, but got a range or choices for lr"),
    "fallback against fixed": ("fallback: {kl_warmup_epochs: 2}", "kl_warmup: 0.2",
                               "search.fallback.kl_warmup: excludes kl_warmup_epochs"),
    "fallback of another family": ("fallback: {hidden: [8]}", "family: conv_pool",
                                   "search.fallback.hidden: read only by family mlp"),
}  # fmt: skip


def cases(table: dict[str, tuple[str, ...]]) -> Any:
    return [pytest.param(*row, id=name) for name, row in table.items()]


class TestRefused:
    @pytest.mark.parametrize(("text", "expected"), cases(WRONG_YAML))
    def test_wrong_yaml(self, root: Path, text: str, expected: str) -> None:
        assert expected in complaint(root, text)

    @pytest.mark.parametrize(("text", "expected"), cases(WRONG_SECTIONS))
    def test_wrong_sections(self, root: Path, text: str, expected: str) -> None:
        assert expected in complaint(root, DIGITS + text)

    @pytest.mark.parametrize(("text", "expected"), cases(WRONG_DATA))
    def test_wrong_data(self, root: Path, text: str, expected: str) -> None:
        assert expected in complaint(root, text)

    @pytest.mark.parametrize(("text", "expected"), cases(WRONG_PARAMETERS | WRONG_CONDITIONS))
    def test_wrong_parameters(self, root: Path, text: str, expected: str) -> None:
        assert expected in complaint(root, parameter(text))

    @pytest.mark.parametrize(("text", "expected"), cases(WRONG_DOMAINS))
    def test_wrong_domains(self, root: Path, text: str, expected: str) -> None:
        assert expected in complaint(root, parameter(text))

    @pytest.mark.parametrize(("text", "parameters", "expected"), cases(WRONG_SEARCHES))
    def test_wrong_searches(self, root: Path, text: str, parameters: str, expected: str) -> None:
        assert expected in complaint(root, search(text, parameters))

    def test_bytes_that_are_no_text(self, root: Path) -> None:
        (root / "search_spaces" / "x.yaml").write_bytes(b"\xff\xfe")
        with pytest.raises(UserError, match=r"^search_spaces/x.yaml: is not valid YAML: .*decode"):
            load_space(root, "x")

    def test_a_folder_of_that_name(self, root: Path) -> None:
        (root / "search_spaces" / "x.yaml").mkdir()
        with pytest.raises(
            UserError, match=r"^search_spaces/x.yaml: cannot be read: Is a directory"
        ):
            load_space(root, "x")

    def test_fallback_goes_over_the_fixed_values(self, root: Path) -> None:
        space = load(root, search("fallback: {filters: 8}", "family: conv_pool"))
        assert space.search.fallback == {"filters": 8}

    def test_any_value_of_any_wrong_type_survives_a_change_to_another_type(
        self, root: Path
    ) -> None:
        """Every value of a valid file, replaced by one of each wrong type, gives one line."""
        raw = yaml.safe_load(FULL)
        for path in leaves(raw):
            for wrong in (object, -(10**30), float("nan"), "�", [], {}, [[{}]], None, True):
                changed = yaml.safe_load(FULL)
                put(changed, path, wrong)
                try:
                    parse_space("x", changed, "x.yaml")
                except UserError as error:
                    assert "\n" not in str(error)  # noqa: PT017  (a few replacements are valid)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values of nested mappings and lists, inner ones too."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    places = []
    for key, item in items:
        places.append((*path, key))
        if isinstance(item, dict | list):
            places += leaves(item, (*path, key))
    return places


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


class TestNames:
    @pytest.mark.parametrize(
        "name", ["../x", "/etc/passwd", "", ".", "..", "X", "a b", "x\n", "-a", "_a", "a/b", "é",
                 "x.yaml", "a" * 65, "con\x00", "x;rm", "~"]
    )  # fmt: skip
    def test_cannot_leave_the_folder(self, root: Path, name: str) -> None:
        (root / "x.yaml").write_text(DIGITS)
        with pytest.raises(UserError) as caught:
            load_space(root, name)
        assert str(caught.value) == (
            "a sweep's name is lower-case letters, digits, `-` and `_` (at most 64), but got"
            f" {name!r}"
        )

    def test_a_near_miss_is_named(self, root: Path) -> None:
        for name in ("fashion", "digits"):
            (root / "search_spaces" / f"{name}.yaml").write_text(DIGITS)
        with pytest.raises(UserError) as caught:
            load_space(root, "fashon")
        assert str(caught.value) == (
            "search_spaces/fashon.yaml does not exist: did you mean fashion? there are digits,"
            f" fashion in {root}/search_spaces"
        )

    def test_none_at_all(self, root: Path) -> None:
        with pytest.raises(UserError, match=r"x.yaml does not exist: there are none in "):
            load_space(root, "x")


WRONG_MACHINES = {
    "list": ("[]", "machine.yaml: must be a mapping of keys to values, but got []"),
    "unknown": ("worker: 2", "machine.yaml: unknown key `worker`: did you mean `workers`? valid keys:"
                " workers, device, data_mirror, storage, tracking"),
    "key": ("1: 2", "machine.yaml: is not valid YAML: line 1: a key must be text, but got `1`"),
    "twice": ("workers: 1\nworkers: 2", "machine.yaml: is not valid YAML: line 2: the key `workers`"),
    "boolean": ("workers: true", "machine.yaml: workers: must be a valid integer, but got True"),
    "none": ("workers: 0", "machine.yaml: workers: must be greater than or equal to 1, but got 0"),
    "word": ("workers: two", "machine.yaml: workers: must be a valid integer, but got 'two'"),
    "device": ("device: gpu", "machine.yaml: device must be auto, cpu, cuda or cuda:N, but got 'gpu'"),
    "device as number": ("device: 1", "machine.yaml: device: must be a valid string, but got 1"),
    "mirror": ("data_mirror: 3", "machine.yaml: data_mirror: must be a valid string, but got 3"),
}  # fmt: skip


class TestMachine:
    @pytest.fixture(autouse=True)
    def _bare_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("MLFLOW_TRACKING_URI", "PIPELINE_STORAGE", "PIPELINE_WORKERS"):
            monkeypatch.delenv(name, raising=False)

    def test_absent_or_empty_is_fine(self, tmp_path: Path) -> None:
        assert load_machine(tmp_path) == Machine()
        (tmp_path / "machine.yaml").write_text("# workers: 2\n")
        assert load_machine(tmp_path) == Machine()

    def test_the_example_is_valid_as_it_is_and_with_every_line_taken(self, tmp_path: Path) -> None:
        example = (ROOT / "machine.example.yaml").read_text(encoding="utf-8")
        (tmp_path / "machine.yaml").write_text(example)
        assert load_machine(tmp_path) == Machine()
        lines = example.splitlines()[1:]
        (tmp_path / "machine.yaml").write_text("\n".join(line.removeprefix("# ") for line in lines))
        assert load_machine(tmp_path).model_fields_set == set(Machine.model_fields)

    @pytest.mark.parametrize(("text", "expected"), cases(WRONG_MACHINES))
    def test_refused(self, tmp_path: Path, text: str, expected: str) -> None:
        (tmp_path / "machine.yaml").write_text(text)
        with pytest.raises(UserError) as caught:
            load_machine(tmp_path)
        assert str(caught.value).startswith(expected)
        assert "\n" not in str(caught.value)

    def test_the_environment_wins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "machine.yaml").write_text("workers: 1\nstorage: sqlite:///a.db\ndevice: cpu\n")
        monkeypatch.setenv("PIPELINE_WORKERS", "7")
        monkeypatch.setenv("PIPELINE_STORAGE", "sqlite:///b.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
        machine = load_machine(tmp_path)
        assert (machine.workers, machine.storage, machine.device) == (7, "sqlite:///b.db", "cpu")
        assert machine.tracking == "http://127.0.0.1:5000"

    @pytest.mark.parametrize("value", ["two", "0", "-1", "²", "1.5", "9" * 5000])
    def test_a_wrong_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("PIPELINE_WORKERS", value)
        with pytest.raises(
            UserError, match="^environment variable PIPELINE_WORKERS: workers: must"
        ):
            load_machine(tmp_path)
