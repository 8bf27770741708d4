"""Strict reading of what a person wrote: YAML without surprises, complaints in one line."""

from __future__ import annotations

import difflib
import re
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import UserError
from pipeline.paths import is_text

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 2

# What people type for a key of ours, having met another name elsewhere.
ALIASES = {
    "lr": "alpha learning_rate learningrate learn_rate lr_rate rate step_size",
    "latent_dim": "code_size embedding_dim latent latent_dims latent_size latents n_latent nz z"
    " z_dim z_size zdim",
    "batch_size": "batch batches bs batchsize mini_batch minibatch",
    "hidden": "encoder_layers hidden_dim hidden_dims hidden_layers hidden_size hidden_sizes"
    " hidden_units layers units widths",
    "epochs": "epoch max_epochs n_epochs nepochs num_epochs",
    "trials": "budget evals max_evals max_trials n_iter n_trials num_samples num_trials",
    "beta": "beta_kl kl_beta kl_coef kl_weight",
    "optimizer": "algorithm opt optim optimiser solver",
    "family": "arch architecture backbone network",
    "filters": "channels conv_filters kernels n_filters num_filters",
    "activation": "act nonlinearity",
    "patience": "early_stop early_stopping early_stopping_patience es_patience",
    "weight_decay": "decay l2 l2_reg reg wd weightdecay",
    "schedule": "annealing lr_schedule lr_scheduler scheduler",
    "kl_warmup": "beta_warmup kl_anneal kl_annealing warm_up warmup",
    "max_grad_norm": "clip clip_grad clip_norm clipnorm grad_clip gradient_clip gradient_clipping",
    "averaging": "ema ema_decay polyak swa",
    "precision": "amp dtype mixed_precision",
    "seeds": "n_seeds num_seeds repeats replicates",
    "seed": "random_seed random_state rng",
    "parallelism": "jobs max_parallel n_jobs num_parallel",
    "workers": "n_workers num_workers processes",
    "top": "best_k candidates n_best top_k topk",
    "likelihood": "distribution loss recon_loss reconstruction",
    "data": "dataset datasets",
    "path": "dir directory file filename folder root",
    "fraction": "ratio share size split val_fraction val_split validation_split",
    "limit": "max_images n_train num_images subset",
    "low": "from lower min minimum start",
    "high": "end max maximum to upper",
    "choices": "categorical categories grid options values",
    "log": "log_scale logarithmic loguniform scale",
    "step": "increment q stride",
}
_MEANT = {alias: key for key, aliases in ALIASES.items() for alias in aliases.split()}
_OTHERWISE = re.compile(r"[-+]?0[0-9_]+")  # octal in YAML 1.1 alone
_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+")


class Section(BaseModel):
    """A mapping in a file. Unknown keys, values of another type, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def valid_keys(cls) -> list[str]:
        """The keys that a person may write."""
        return list(cls.model_fields)

    @classmethod
    def homes(cls, key: str) -> list[str]:
        """The sections inside this one that have the key, as dotted paths."""
        found = []
        for name, field in cls.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Section):
                found += [name] if key in inner.valid_keys() else []
                found += [f"{name}.{deeper}" for deeper in inner.homes(key)]
        return found


S = TypeVar("S", bound=Section)


class _StrictLoader(yaml.SafeLoader):
    """Keys are text, and none is given twice; all text is UTF-8, escapes too."""

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        if not is_text(node.value):
            problem = f"text must be UTF-8, but got {node.value!r:.80}: rename what it names"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                shown = key.value if isinstance(key, yaml.ScalarNode) else key.id
                problem = f"a key must be text, but got `{shown}`: put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in seen:
                problem = f"the key `{key.value}` is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return node


def _number(loader: _StrictLoader, node: yaml.ScalarNode) -> int | float | str:
    """As DVC reads it, which knows YAML 1.2 and records what it has read: 1:30 is text, and 010,
    which is 8 in YAML 1.1, is refused."""
    if ":" in node.value:
        return str(node.value)
    if _OTHERWISE.fullmatch(node.value):
        problem = f"`{node.value}` is not the same number in YAML 1.1 and 1.2: write plain digits"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    is_int = node.tag.endswith("int")
    return loader.construct_yaml_int(node) if is_int else loader.construct_yaml_float(node)


for _kind in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)

# YAML 1.1 asks for a point and a sign, which nobody writes; 1.2 and DVC read 1e-3 as we do.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(rf"(?:{_EXPONENT.pattern})$"), list("-+.0123456789")
)


def read_yaml(path: Path, where: str) -> dict[str, Any]:
    """The mapping in a YAML file, {} for an empty one; `where` names it in the UserError."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), where)
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is not valid YAML: {_position(error)}") from None


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The same of a file's text."""
    try:
        raw = yaml.load(text, _StrictLoader)
    except RecursionError:
        raise UserError(f"{where}: is nested too deeply: flatten it") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        # PyYAML lets the last three through where a tag does not fit its value.
        raise UserError(f"{where}: is not valid YAML: {_position(error)}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{where}: must be a mapping of keys to values, but got {show(raw)}")
    return raw


def validated(section: type[S], raw: dict[str, Any], where: str) -> S:
    """The section of a file's content; `where` names the file in the UserError."""
    try:
        return section(**raw)
    except ValidationError as error:
        raise UserError(_one_line(section, error, where)) from None


def unknown_key(section: Any, location: tuple[str | int, ...], where: str) -> str:
    """The complaint about a key that a section or one inside it does not have."""
    whole, key = section, str(location[-1])
    for part in location[:-1]:
        section = section.model_fields[part].annotation
    valid = section.valid_keys()
    hint = did_you_mean(key, valid) or whole_hint(whole, key)
    if whole.homes(key) and _MEANT.get(_plain(key)) not in valid:  # not a misspelling
        hint = whole_hint(whole, key)
    path = ".".join(str(part) for part in location)
    return f"{where}: unknown key `{path}`: {hint}valid keys: {', '.join(valid)}"


def did_you_mean(key: str, valid: list[str]) -> str:
    """A question with the valid key that was meant, by its other names or its spelling; or ""."""
    meant = _MEANT.get(_plain(key))
    swapped = [each for each in valid if sorted(each) == sorted(key)]
    near = [meant] if meant in valid else swapped or difflib.get_close_matches(key, valid, n=1)
    return f"did you mean `{near[0]}`? " if near else ""


def whole_hint(whole: type[Section], key: str) -> str:
    """Which section of the file has the key that another does not; or ""."""
    for name in (key, _MEANT.get(_plain(key), key)):
        if homes := whole.homes(name):
            return f"`{name}` belongs in {' or '.join(f'`{home}`' for home in homes)}; "
    return ""


def _plain(key: str) -> str:
    return key.lower().replace("-", "_").replace(" ", "_")


def is_number_as_text(value: Any) -> bool:
    """Whether a value is text that would be a number without its quotes."""
    return isinstance(value, str) and bool(
        _EXPONENT.fullmatch(value) or re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?", value)
    )


def explain(*details: ErrorDetails) -> str:
    """Rule and value of pydantic's error details on one key (several: a union's alternatives)."""
    first = details[0]
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    rules = [_rule(detail) for detail in details]
    rule = " or ".join([rules[0], *(rule.removeprefix("must be ") for rule in rules[1:])])
    return f"{rule}, but got {show(first['input'])}"


def show(value: Any) -> str:
    """A value in an error message: its repr, shortened."""
    return _SHORT.repr(value)


def _one_line(section: type[Section], error: ValidationError, where: str) -> str:
    first, *others = error.errors()
    if first["type"] == "extra_forbidden":
        return unknown_key(section, first["loc"], where)
    key = _key(first)
    if first["type"] == "missing":
        return f"{where}: {key}: is required: add it"
    same = [other for other in others if _key(other) == key]
    return f"{where}: {key + ': ' if key else ''}{explain(first, *same)}"


def _key(detail: Any) -> str:
    # Pydantic names the alternatives of a union too.
    names = (str(part) for part in detail["loc"])
    return ".".join(name for name in names if not name.startswith(("float", "literal[")))


def _rule(detail: ErrorDetails) -> str:
    if detail["type"] in ("model_type", "dict_type"):
        return "must be a mapping"
    if detail["type"] == "too_short":
        return f"must have at least {detail['ctx']['min_length']} entry"
    return detail["msg"].replace("Input should be", "must be", 1)


def _position(error: Exception) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error).splitlines()[0]
    texts = (error.context, error.problem)
    return f"line {error.problem_mark.line + 1}: {', '.join(text for text in texts if text)}"
