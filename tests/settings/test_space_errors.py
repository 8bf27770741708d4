"""Whatever is wrong in a file, its author gets one line: file, key, rule, value, remedy.

errors/*.txt hold wrong files, each above the line that it earns, after the file's name; `…` stands
for the rest of a long list.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import UserError
from pipeline.settings.machine import ENVIRONMENT, load_machine
from pipeline.settings.space import load_space, parse_space

ERRORS = Path(__file__).parent / "errors"
DIGITS = "data: {name: digits}\n"
EVERYTHING = """
data: {name: npz, path: mine.npz, limit: 100, validation: {fraction: 0.2, seed: 1}}
model: {likelihood: gaussian, sigma: optimal}
parameters:
  family: {choices: [mlp, conv_pool]}
  filters: {low: 8, high: 32, step: 8, when: {family: conv_pool}}
  lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  patience: {choices: [null, 3]}
  restore_best: false
search: {sampler: gp, pruner: percentile, trials: 7, fallback: {lr: 1.0e-3}}
retrain: {top: 1}
render: {projections: [umap]}
"""


def table(name: str) -> Any:
    """The pairs of a table: a wrong file and the line that it earns."""
    text = "\n" + (ERRORS / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pairs = [block.split("\n> ") for block in "\n".join(lines).split("\n\n") if block.strip()]
    return [pytest.param(wrong.strip() + "\n", line, id=wrong.strip()) for wrong, line in pairs]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "search_spaces").mkdir()
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def complaint(root: Path, text: str) -> str:
    """The line that a wrong search space earns, without the file's name."""
    (root / "search_spaces" / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_space(root, "x")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("search_spaces/x.yaml: ")
    return message.removeprefix("search_spaces/x.yaml: ")


def matches(message: str, expected: str) -> bool:
    start = expected.removesuffix("…")
    return message == expected or (start != expected and message.startswith(start))


@pytest.mark.parametrize(("wrong", "expected"), [*table("sections"), *table("parameters")])
def test_search_space(root: Path, wrong: str, expected: str) -> None:
    text = wrong if "data:" in wrong else DIGITS + wrong
    message = complaint(root, text)
    assert matches(message, expected), message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# all comments\n", "data: is required: add it"),
        ("- a\n", "must be a mapping of keys to values, but got ['a']"),
        ("data:\n\tname: x\n", "is not valid YAML: line 2: while scanning for the next token, found"
         " character '\\t' that cannot start any token"),
        ("\x00", "is not valid YAML: unacceptable character #x0000: special characters are not"
         " allowed"),
        (f"limit: {'9' * 5000}", "is not valid YAML: Exceeds the limit (4300 digits) for integer"
         " string conversion: value has 5000 digits; use sys.set_int_max_str_digits() to increase"
         " the limit"),
        (f"data: {'[' * 3000}{']' * 3000}", "is nested too deeply: flatten it"),
        (f"{DIGITS}parameters: {{beta: {10**400}}}", "parameters.beta: must be a valid number, but"
         " got 100000000000000000...0000000000000000000"),
    ],
    ids=["nothing", "list", "tab", "control", "digits", "nesting", "huge"],
)  # fmt: skip
def test_what_does_not_fit_a_table(root: Path, text: str, expected: str) -> None:
    assert complaint(root, text) == expected


def test_a_value_that_unfolds_is_shown_short(root: Path) -> None:
    levels = "".join(
        f"{new}: &{new} [{f'*{old},' * 9}]\n" for old, new in zip("abcd", "bcde", strict=True)
    )
    assert len(complaint(root, f"a: &a [{'x,' * 9}]\n{levels}data: {{name: *e}}\n")) < 600


def test_bytes_that_are_no_text(root: Path) -> None:
    (root / "search_spaces" / "x.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"^search_spaces/x.yaml: is not valid YAML: .*decode"):
        load_space(root, "x")


def test_a_folder_of_that_name(root: Path) -> None:
    (root / "search_spaces" / "x.yaml").mkdir()
    with pytest.raises(UserError, match=r"^search_spaces/x.yaml: cannot be read: Is a directory$"):
        load_space(root, "x")


@pytest.mark.parametrize(
    "wrong", [-(10**30), float("nan"), float("inf"), 0.5, "?", [], {}, [[{}]], None, True, b"x"]
)
def test_no_value_of_another_type_leaks_a_traceback(wrong: Any) -> None:
    refused = 0
    for path in places(yaml.safe_load(EVERYTHING)):
        changed = yaml.safe_load(EVERYTHING)
        put(changed, path, wrong)
        try:
            parse_space("x", changed, "x.yaml")
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017 (a few replacements are valid)
    assert refused > 15


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values in nested mappings and lists, inner ones too."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in items:
        found.append((*path, key))
        if isinstance(item, dict | list):
            found += places(item, (*path, key))
    return found


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


@pytest.mark.parametrize(("wrong", "expected"), table("machine"))
def test_machine(root: Path, wrong: str, expected: str) -> None:
    (root / "machine.yaml").write_text(wrong)
    with pytest.raises(UserError) as caught:
        load_machine(root)
    assert str(caught.value) == f"machine.yaml: {expected}"


@pytest.mark.parametrize("value", ["two", "0", "-1", "²", "1.5", "9" * 5000])
def test_environment(root: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PIPELINE_WORKERS", value)
    with pytest.raises(UserError) as caught:
        load_machine(root)
    assert str(caught.value).startswith("environment variable PIPELINE_WORKERS: workers: must be ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "", ".", "..", "X", "a b", "x\n", "-a", "_a", "a/b", "é",
             "x.yaml", "a" * 65, "nul\x00", "x;rm", "~"]
)  # fmt: skip
def test_a_name_cannot_leave_the_folder(root: Path, name: str) -> None:
    (root / "x.yaml").write_text(DIGITS)
    with pytest.raises(UserError) as caught:
        load_space(root, name)
    assert str(caught.value) == (
        f"a sweep's name is lower-case letters, digits, `-` and `_` (at most 64), but got {name!r}"
    )


@pytest.mark.parametrize("name", ["search_spaces/digits.yaml", "digits.yaml", "DIGITS"])
def test_a_file_named_instead_of_its_sweep(root: Path, name: str) -> None:
    (root / "search_spaces" / "digits.yaml").write_text(DIGITS)
    with pytest.raises(UserError, match=f"but got '{name}': did you mean digits\\?$"):
        load_space(root, name)


def test_a_near_miss_of_a_name(root: Path) -> None:
    for name in ("fashion", "digits"):
        (root / "search_spaces" / f"{name}.yaml").write_text(DIGITS)
    with pytest.raises(UserError) as caught:
        load_space(root, "fashon")
    assert str(caught.value) == (
        "search_spaces/fashon.yaml does not exist: did you mean fashion? there are digits, fashion"
        f" in {root}/search_spaces"
    )


def test_no_sweep_at_all(root: Path) -> None:
    with pytest.raises(UserError, match=r"x.yaml does not exist: there are none in "):
        load_space(root, "x")
