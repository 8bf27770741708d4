"""A family in a file of one's own: its hyperparameters are like any others, and it is recorded."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from own_models import EXAMPLE, FAMILY, FILE, METRICS, METRICS_FILE, space_of

from pipeline.commands.check import describe
from pipeline.errors import UserError
from pipeline.own_code import own_module
from pipeline.paths import Paths
from pipeline.results.record import settings_of
from pipeline.settings import snapshot
from pipeline.settings.declared import read_declared
from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.settings.own_family import TAKEN, kind_of
from pipeline.settings.space import Model, Space, load_space, parse_space
from pipeline.study.identity import candidate_study, changes, search_study
from pipeline.study.receipt import left_out
from pipeline.study.restore import file_text, restored, space_text
from pipeline.vae.families import FAMILIES
from pipeline.vae.setting import read_setting
from pipeline.work.own import own_faults

if TYPE_CHECKING:
    from worked import Worked

FAMILIES_FOLDER = Path(__file__).parents[2] / "pipeline" / "vae" / "families"
CLASS = "@dataclass(frozen=True)\nclass ResidualVAE:\n"
FIELD = CLASS + "    width: {} = hyperparameter({})\n"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_built_in_families_declare_what_the_settings_say(name: str) -> None:
    """They have the form of one's own, and every default, range and meaning stands there, too."""
    text = (FAMILIES_FOLDER / f"{name}.py").read_text()
    declared = read_declared(text, FAMILIES[name].__name__)
    kind = kind_of([name], {})
    schema = kind.model_json_schema()["properties"]
    assert declared.keys() == {n for n, f in kind.readers.items() if name in f} - {"centered"}
    from pydantic import Field, create_model

    fields: dict[str, Any] = {
        key: (each.kind, Field(each.default, description=each.meaning))
        for key, each in declared.items()
    }
    found = create_model("Own", **fields).model_json_schema()["properties"]
    assert found == {key: schema[key] for key in declared}


def test_its_hyperparameters_are_searched_conditional_and_printed(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        family={"choices": ["mlp", FAMILY]},
        width={"low": 4, "high": 64, "log": True, "when": {"family": FAMILY}},
        hidden={"choices": [[32], [64]], "when": {"family": "mlp"}},
    )
    assert list(space.searched) == ["family", "lr", "hidden", "width"]
    assert space.hyperparameters({"family": FAMILY, "width": 8}).model_dump()["width"] == 8
    assert space.hyperparameters({}).model_dump()["blocks"] == 1
    text = describe(space)
    assert "4 … 64 (integer, log scale)  only when family = my_models.py:ResidualVAE" in text
    assert "ResidualVAE: channels of all feature maps; allowed: integers ≥ 1, ≤ 1024" in text
    assert "blocks               1 *  (ResidualVAE: residual blocks at every size)" in text


def test_a_space_reaches_a_worker_and_dvc_with_its_source(tmp_path: Path) -> None:
    space = space_of(tmp_path, width=8)
    assert Space.model_validate_json(space.model_dump_json()) == space
    snapshot.take(Paths(tmp_path, "own"))
    (tmp_path / FILE).unlink()  # whoever works from the snapshot does without the file
    assert snapshot.read(Paths(tmp_path, "own")) == space
    setting = read_setting(space.record({}))
    assert vars(setting.architecture.family) == {"width": 8, "blocks": 1}


def test_dvc_is_told_when_the_file_changes(tmp_path: Path) -> None:
    space_of(tmp_path)
    (tmp_path / "params.yaml").write_text("spaces: [own]\n")
    snapshot.own_data(tmp_path)
    before = (tmp_path / "runs" / "own_data.json").read_text()
    (tmp_path / FILE).write_text(EXAMPLE + "\n")
    snapshot.own_data(tmp_path)
    assert (tmp_path / "runs" / "own_data.json").read_text() != before


def test_a_metric_is_of_the_section_that_names_it(tmp_path: Path) -> None:
    """So that an edit measures again, and trains nothing again."""
    one, paths = space_of(tmp_path, metrics=METRICS), Paths(tmp_path, "own")
    snapshot.take(paths)
    assert snapshot.read(paths) == one
    before = {file.name: file.read_bytes() for file in paths.settings.iterdir()}
    other = space_of(tmp_path, metrics=METRICS + "\n")
    snapshot.take(paths)
    after = {file.name: file.read_bytes() for file in paths.settings.iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["evaluate.json"]
    assert search_study(one, "d") == search_study(other, "d")
    study = search_study(one, "d")
    again = restored("own", study.id, study.spec, left_out(one))
    assert again.section("evaluate") == one.section("evaluate")
    text = space_text("own", study.id, study.spec, left_out(one))
    assert f"# with {METRICS_FILE} of SHA-256 {one.sources[METRICS_FILE].sha256[:12]}" in text


def test_the_source_is_part_of_the_identity_where_there_is_one(tmp_path: Path) -> None:
    space = space_of(tmp_path / "one")
    other = space_of(tmp_path / "two", EXAMPLE.replace("> 4:", "> 2:"))
    for study_of in (search_study, lambda s, d: candidate_study(s, d, {"lr": 1e-3})):
        one, two = study_of(space, "d"), study_of(other, "d")
        assert one.id != two.id
        (change,) = changes(one.spec, two.spec)
        assert change.startswith(f"{FILE}: {space.sources[FILE].sha256[:12]} → ")
    built_in = parse_space("x", {"data": {"name": "digits"}}, "x")
    assert "sources" not in search_study(built_in, "d").spec["model"]
    assert "sources" not in settings_of(built_in)["model"]


def test_a_study_is_written_back_with_its_source(tmp_path: Path) -> None:
    space = space_of(tmp_path, width={"low": 4, "high": 8})
    study = search_study(space, "d")
    again = restored("own", study.id, study.spec, left_out(space))
    assert search_study(again, "d") == study
    text = space_text("own", study.id, study.spec, left_out(space))
    assert f"# with {FILE} of SHA-256 {space.sources[FILE].sha256[:12]}" in text
    assert file_text(study.id, study.spec, {}, FILE) == EXAMPLE
    (tmp_path / "search_spaces" / "again.yaml").write_text(text)
    assert search_study(load_space(tmp_path, "again"), "d").spec == study.spec
    with pytest.raises(UserError, match=r"has no other.py: there are my_models.py"):
        file_text(study.id, study.spec, {}, "other.py")


def test_a_damaged_source_is_noticed(tmp_path: Path) -> None:
    space = space_of(tmp_path)
    damaged = space.record({})
    damaged["sources"][FILE]["text"] += "#"
    with pytest.raises(UserError, match=r"my_models.py: the recorded source is not that of its"):
        read_setting(damaged)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:", "line 1: invalid syntax"),
        ("class Other: ...", "has no class ResidualVAE: its classes are Other"),
        ("class ResidualVAE: ...", r"line 1: class ResidualVAE must be a @dataclass"),
        (CLASS + "    width: int = 3", r"line 3: width: a field is a hyperparameter: write"),
        (FIELD.format("int", "3, meaning='x'"), "a number has a range: give `low` and `high`"),
        (FIELD.format("int", "3, low=1, high=9"), "has a default and a `meaning`"),
        (FIELD.format("int", "N, meaning='x'"), "must be written out, not computed"),
        (FIELD.format("str", "'a', meaning='x'"), "text needs `choices`"),
        (FIELD.format("dict", "{}, meaning='x'"), "is int, float, bool, str or list"),
        (FIELD.format("int", "3, meaning='x', log=True"), "hyperparameter.. has no `log`"),
        (
            FIELD.format("int", "0, meaning='x', low=1, high=9"),
            "the default of width: must be greater than or equal to 1, but got 0",
        ),
        (
            FIELD.replace("width", "lr").format("float", "0.1, meaning='x', low=0, high=1"),
            "ResidualVAE.lr: every family has a hyperparameter lr: rename it",
        ),
        (FIELD.format("int", "3, meaning='x', low=1, high='9'"), "a number has a range"),
        (FIELD.format("int", "3, meaning='x', low=0.5, high=9"), "an integer has whole numbers"),
        (FIELD.format("int", "3, meaning='x', low=1, high=1e999"), "a number has a range"),
        (FIELD.format("str", "'a', meaning='x', choices='abc'"), "text needs `choices`: list them"),
        (FIELD.format("str", "'a', meaning='x', choices=5"), "text needs `choices`: list them"),
        (FIELD.format("int", "{[]: 1}, meaning='x'"), "must be written out, not computed"),
        (f"x = {'+'.join(['1'] * 20_000)}\n", "is nested too deeply to be read: divide"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        space_of(tmp_path, source)
    assert str(caught.value).startswith(f"search_spaces/own.yaml: parameters.family: {FILE}: ")
    assert "\n" not in str(caught.value)


BY_NAME = "may import by `import` alone, but got {}: write `import NAME`, of an"
LENT = "may import installed packages, but got lent of .*lent.py, whose content no digest covers"
LATE = """
_encoder = ResidualVAE.encoder
def encoder(self, shape):
    import lent
    return _encoder(self, shape)
ResidualVAE.encoder = encoder
"""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("import lent", LENT),
        ("from lent import x", LENT),
        ("try:\n    import lent\nexcept ImportError:\n    pass", LENT),
        ("import sys as s\ns.path.append('lib')\nimport lent", LENT),
        ("import os\nos.sys.path.append('lib')\nexec('import lent')", LENT),
        ("exec('import lent', {})", LENT),
        ("__import__('lent')", LENT),
        (LATE, LENT),
        ("import lent_too.part", "may import .* but got lent_too of .*lent_too, whose"),
        ("from lent_too import part", "may import .* but got lent_too of .*lent_too, whose"),
        ("import pipeline.study.identity", "may import pipeline.vae of the program alone, but got"),
        ("from pipeline import study", "may import pipeline.vae of the program alone, but got"),
        ("import importlib", BY_NAME.format("importlib")),
        ("import importlib as loader", BY_NAME.format("importlib")),
        ("from importlib import util", BY_NAME.format("importlib")),
        ("import importlib.metadata", BY_NAME.format("importlib.metadata")),
        ("from importlib import metadata, util", BY_NAME.format("importlib")),
        ("from runpy import run_path", BY_NAME.format("runpy")),
        ("exec('import runpy')", BY_NAME.format("runpy")),
        ("from . import helpers", "ImportError: attempted relative import"),
        ("__package__ = 'lent_too'\nfrom . import part", "may import .* but got lent_too of"),
        ("__package__ = 'lent_too'\nfrom .part import x", "may import .* but got lent_too of"),
        ("import lent_out", "may import .* but got lent_out of .*lent_out.py, whose"),
    ],
)
def test_what_no_digest_covers_is_not_imported(
    tmp_path: Path, lines: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whichever words, and when the model is built."""
    elsewhere = tmp_path / "elsewhere"  # as PYTHONPATH or `pip install -e` name it
    (elsewhere / "lent_too").mkdir(parents=True)
    (elsewhere / "lent.py").write_text("x = 1\n")
    (elsewhere / "lent_too" / "part.py").write_text("x = 1\n")
    replaces = "import sys\nsys.modules[__name__] = object()\n"
    (elsewhere / "lent_out.py").write_text(replaces)
    monkeypatch.syspath_prepend(elsewhere)
    space = space_of(tmp_path / "checkout", f"{EXAMPLE}\n{lines}\n")
    for _ in range(2):  # though it is loaded by then
        (fault, *_) = own_faults(space, (1, 8, 8))
        assert re.search(rf"{FILE}: line \d+: (a file that a space names )?{message}", fault), fault
        assert "\n" not in fault


@pytest.mark.parametrize(
    "lines",
    [
        "import packaged",
        "from importlib.metadata import version",
        "from importlib import metadata, resources",
        "def f(sys):\n    return sys.path",
        "import sys\nsys.path.sort(key=lambda place: 0)",
        "import torch.nn.functional as F\nfrom torch.utils import data\nimport math, numpy",
        "import pipeline.vae.model\nfrom pipeline.vae.likelihood import Likelihood",
        "from pipeline import vae",
        "import torch.ops\nfrom torch import classes",  # which name files that are not there
    ],
)
def test_installed_packages_may_be_imported(
    tmp_path: Path, lines: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those too of an environment that PYTHONPATH names, as modules of a cluster do."""
    packages = tmp_path / "modules" / "torch" / "lib" / "python3" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "packaged.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(packages)
    assert not list(own_faults(space_of(tmp_path / "checkout", f"{EXAMPLE}\n{lines}\n"), (1, 8, 8)))


def test_what_compiles_a_source_gets_the_recorded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch.jit and Triton read it; not that of the checkout, which is edited meanwhile."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / FILE).write_text("def f(x):\n    return 3 * x\n")
    for number in (1, 2, 1):
        text = f"def f(x):\n    return {number} * x\n"
        digest = hashlib.sha256(text.encode()).hexdigest()
        own = own_module(FILE, {FILE: {"text": text, "sha256": digest}})
        assert inspect.getsource(own.f) == text


@pytest.mark.parametrize(
    "name",
    ["state", "shape", "likelihood", "weights", "mean_nelbo_nats", "_width", "copy", "defaults",
     "model_config", "model_dump", "readers", "__base__"],
)  # fmt: skip
def test_a_name_that_has_another_meaning_is_refused(tmp_path: Path, name: str) -> None:
    """It would stand in place of a trial's state, a model's likelihood, a method of ours."""
    field = FIELD.replace("width", name).format("int", "3, meaning='x', low=1, high=9")
    with pytest.raises(UserError, match=f"ResidualVAE.{name}: the name has another meaning here"):
        space_of(tmp_path, field)


def test_every_name_of_an_output_is_taken(worked: Worked) -> None:
    runs = worked.runs / "tiny"
    columns = set[str]()
    for table in ("search/trials.csv", "retrain/candidates.csv"):
        columns |= set((runs / table).read_text().splitlines()[0].split(","))
    columns |= json.loads((runs / "retrain" / "config.json").read_text()).keys()
    ours = columns - Hyperparameters.model_fields.keys()
    assert {each for each in ours if not each.endswith("_nats")} <= TAKEN
    assert Model.model_fields.keys() <= TAKEN


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"width": 0}, "parameters.width: must be greater than or equal to 1, but got 0"),
        ({"widht": 8}, "parameters.widht: unknown hyperparameter: did you mean `width`?"),
        ({"hidden": [8]}, "parameters.hidden: read only by family mlp"),
        ({"family": "/etc/x.py:A"}, "must be a file in the checkout"),
        ({"family": "../x.py:A"}, "must be a file in the checkout"),
        ({"family": "none.py:A"}, "none.py: there is no such file"),
        ({"family": "my_models.py"}, "but got 'my_models.py': or name your own as FILE.py:CLASS"),
    ],
)
def test_a_wrong_value_is_one_line(tmp_path: Path, parameters: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        space_of(tmp_path, **parameters)
    assert message in str(caught.value)


def test_two_families_may_not_mean_different_things_by_a_name(tmp_path: Path) -> None:
    source = EXAMPLE.replace("width", "filters")
    assert space_of(tmp_path, source, filters=8).hyperparameters({}).model_dump()["filters"] == 8
    with pytest.raises(UserError, match=r"filters: conv_pool, which the space has too, reads"):
        space_of(tmp_path, source, family={"choices": ["conv_pool", FAMILY]})
    twice = EXAMPLE + EXAMPLE[EXAMPLE.index("@dataclass") :].replace("VAE", "Twin")
    twins = {"choices": [FAMILY, "my_models.py:ResidualTwin"]}
    space = space_of(tmp_path, twice, family=twins)
    assert space.kind.readers["width"] == (FAMILY, "my_models.py:ResidualTwin")
    other = twice[::-1].replace("width: int = hyperparameter(32"[::-1],
                                "width: int = hyperparameter(16"[::-1], 1)[::-1]  # fmt: skip
    with pytest.raises(UserError, match="another family of the space declares width otherwise"):
        space_of(tmp_path, other, family=twins)


def test_validating_runs_nothing_of_the_file(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    source = EXAMPLE + f"\nopen({str(marker)!r}, 'w').close()\n"
    space = space_of(tmp_path, source)
    describe(space)
    search_study(space, "d")
    assert not marker.exists()
    read_setting(space.record({}))
    assert marker.exists()


def test_what_fails_while_it_is_run_is_one_line(tmp_path: Path) -> None:
    space = space_of(tmp_path, EXAMPLE + "\n\n1 / 0\n")
    line = EXAMPLE.count("\n") + 3
    with pytest.raises(UserError, match=f"^my_models.py: line {line}: ZeroDivisionError: div"):
        read_setting(space.record({}))


def test_the_page_shows_the_space_as_it_is_written(tmp_path: Path) -> None:
    from own_models import PAGE

    shown = yaml.safe_load(PAGE.read_text().split("```yaml\n")[1].split("```")[0])
    space = space_of(tmp_path, **shown["parameters"])
    assert {"width", "blocks"} <= space.searched.keys()
