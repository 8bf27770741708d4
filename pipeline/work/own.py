"""Whether what a space names in files of one's own is sound, before an epoch is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.errors import UserError
from pipeline.own_code import Fault, in_time, own_module
from pipeline.settings.hyperparameters import Choices, Domain, Value
from pipeline.settings.own_files import SOURCES, is_own
from pipeline.settings.space import Space
from pipeline.study.search.sampler import completed
from pipeline.study.search.sampler_faults import sampler_faults


def check_own(space: Space, shape: tuple[int, int, int]) -> None:
    """Raises UserError with the first fault, for images (C, H, W)."""
    for line in own_faults(space, shape):
        raise UserError(
            f"{line}: correct it; `python -m pipeline check {space.name}` shows the rest"
        )


def own_faults(space: Space, shape: tuple[int, int, int] | None) -> Iterator[str]:
    """A line for each fault, for images (C, H, W); of what relies on nothing that is faulty. If the
    images are not here, only whether the files can be run."""
    if shape is None:
        yield from _file_faults(space)
        return
    for faults in (_likelihood_faults, family_faults, _metric_faults, _sampler_faults):
        found = list(faults(space, shape))
        yield from found
        if found:
            return


def _file_faults(space: Space) -> Iterator[str]:
    from pipeline.vae.left_alone import process_is_left_alone

    for file, source in space.sources.items():
        try:
            with in_time(f"{file}:"), process_is_left_alone():
                own_module(file, {file: source.model_dump()})
        except UserError as error:
            yield str(error)
        except Fault as fault:
            yield f"{file}: {fault}"


def _likelihood_faults(space: Space, shape: tuple[int, int, int]) -> Iterator[str]:
    if not is_own(space.model.likelihood):
        return
    from pipeline.vae.likelihood_faults import likelihood_faults

    yield from likelihood_faults(space.model.likelihood, space.section("model")[SOURCES], shape)


def _metric_faults(space: Space, shape: tuple[int, int, int]) -> Iterator[str]:
    if not space.evaluate.metrics:
        return
    from pipeline.vae.own_metrics import metric_faults

    record, files = space.record(completed(space.searched, {})), space.section("evaluate")[SOURCES]
    yield from metric_faults(space.evaluate.metrics, files, record, shape)


def _sampler_faults(space: Space, shape: tuple[int, int, int]) -> Iterator[str]:
    yield from sampler_faults(space)


def family_faults(space: Space, shape: tuple[int, int, int]) -> Iterator[str]:
    """A line for each fault of a family, with the first setting that shows it."""
    if not space.files("model"):
        return
    from pipeline.vae.faults import find_fault

    known = set()
    for setting in _settings(space):
        record = space.record(setting)
        if not is_own(record["family"]):
            continue
        late = ""
        try:
            with in_time(record["family"]):
                fault = find_fault(record, shape)
        except Fault as error:
            fault = late = str(error)
        kind = (record["family"], re.sub(r"[0-9]+", "", fault or ""))  # whatever the sizes
        if fault is not None and kind not in known:
            known.add(kind)
            own = (
                name for name in space.kind.of_the_model() if space.reads(record["family"], name)
            )
            values = ", ".join(f"{name} {record[name]}" for name in own if name != "family")
            yield f"{record['family']} ({values}): {fault}"
        if late:  # others would take as long
            return


def _settings(space: Space) -> Iterator[dict[str, Value]]:
    """The centre and the ends of what builds a model: one by one, and all at once; none twice."""
    names = [name for name in space.searched if name in space.kind.of_the_model()]
    ends = {name: _ends(space.searched[name]) for name in names}
    seen: list[dict[str, Value]] = []
    for family in ends.get("family", [None]):
        base = {} if family is None else {"family": family}
        corners = [{name: ends[name][which] for name in names} for which in (0, -1)]
        singly = [{name: end} for name in names for end in ends[name]]
        for given in ({}, *corners, *singly):
            setting = completed(space.searched, {**given, **base})
            built = {name: setting.get(name) for name in names}
            if built not in seen:
                seen.append(built)
                yield setting


def _ends(domain: Domain) -> list[Value]:
    if isinstance(domain, Choices):
        return list(domain.choices)
    ends = [domain.low, domain.high]
    return [int(end) for end in ends] if domain.integer else ends
