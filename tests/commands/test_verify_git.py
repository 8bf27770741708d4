"""What DVC leaves between the outputs in a Git repository is nobody's forgery."""

from __future__ import annotations

from pathlib import Path

import pytest
from audits import NAME, Site, sweep

from pipeline.commands.verify import verify


@pytest.mark.slow
def test_a_gitignore_of_dvc_is_no_finding_and_any_other_file_is_one(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write(sweep(search={"trials": 2, "epochs": 2, "startup_trials": 2, "rungs": [1]}))
    site.search()
    folder = site.paths.search
    names = sorted(file.name for file in folder.iterdir())
    (folder / ".gitignore").write_text("".join(f"/{name}\n" for name in names))
    assert verify(site.root, site.machine, NAME).findings == []
    (folder / ".other").touch()
    (line,) = verify(site.root, site.machine, NAME).findings
    assert line == "search/.other: no stage has recorded this file"
