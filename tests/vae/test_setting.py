"""What a training is told has the names of what people write."""

from __future__ import annotations

from dataclasses import fields

from trainings import config, setting_of

from pipeline.settings.own_family import kind_of
from pipeline.settings.sections import Model
from pipeline.vae.families import FAMILIES
from pipeline.vae.setting import Architecture, Setting


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_every_hyperparameter_reaches_the_training_under_its_name() -> None:
    """A new one that is forgotten there would be searched without effect."""
    flat = (names(Setting) - {"architecture"}) | names(Architecture)
    told = flat.union(*map(names, FAMILIES.values()))
    assert told == {*kind_of(FAMILIES, {}).model_fields, *Model.model_fields}


def test_a_family_reads_what_is_said_to_be_its_own() -> None:
    for family, kind in FAMILIES.items():
        readers = kind_of(FAMILIES, {}).readers
        own = {name for name, families in readers.items() if family in families}
        assert names(kind) == own - {"centered"}  # of the training's start, not of the model


def test_every_value_arrives() -> None:
    written = config(family="conv_pool", likelihood="gaussian", sigma="optimal", lr=0.25)
    told = setting_of(family="conv_pool", likelihood="gaussian", sigma="optimal", lr=0.25)
    architecture = told.architecture
    assert vars(architecture.family) == {name: written[name] for name in ("filters", "dense_units")}
    kept = {**vars(told), **vars(architecture)}
    assert all(
        kept[name] == written[name] for name in kept if name not in ("architecture", "family")
    )
