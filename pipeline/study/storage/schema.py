"""The ledger's tables, the version of their layout, and how older ledgers are brought up to it."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from pipeline.seeds import digest

# 1: before it was stored. 2: it is; trials.claim; weights. 3: trials.arithmetic; origins.
# 4: a row is a part of a trial, with its place on the virtual clock. 5: workers; jobs; wishes;
# turns
VERSION = 5

_schema = sa.MetaData()
SCHEMA_VERSION = sa.Table(
    "schema_version", _schema, sa.Column("version", sa.Integer, primary_key=True)
)
STUDIES = sa.Table(
    "studies",
    _schema,
    sa.Column("id", sa.String(120), primary_key=True),
    sa.Column("name", sa.String(64), index=True, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("reopened", sa.Integer, nullable=False, server_default="0"),  # how often
    sa.Column("wish", sa.String(16)),  # of all who work on its sweep
)
TRIALS = sa.Table(  # the parts of trials: see `pipeline.study.storage.rows`
    "trials",
    _schema,
    sa.Column("study", sa.String(120), sa.ForeignKey("studies.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("since", sa.Integer, nullable=False, server_default="0"),
    sa.Column("until", sa.Integer),
    sa.Column("starts", sa.BigInteger),  # none: it was re-opened, and is to be planned anew
    sa.Column("follows", sa.Integer),
    sa.Column("cost", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("parameters", sa.Text),
    sa.Column("curve", sa.Text, nullable=False, server_default="[]"),
    sa.Column("epochs", sa.Integer, nullable=False, server_default="0"),  # most ever reported
    sa.Column("result", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("meta", sa.Text, nullable=False, server_default="{}"),
    sa.Column("owner", sa.String(200)),
    sa.Column("claim", sa.String(32)),  # which call of `claim` has granted the lease
    sa.Column("token", sa.Integer, nullable=False, server_default="1"),
    sa.Column("expires", sa.Float, nullable=False, server_default="0"),
    sa.Column("strikes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("started_ms", sa.BigInteger, nullable=False),
    sa.Column("finished_ms", sa.BigInteger),
    sa.Column("arithmetic", sa.String(16)),  # of its fingerprint in meta, if it has one
    sa.Index("trials_by_state", "study", "state", "number"),
    sa.Index("trials_by_arithmetic", "study", "arithmetic"),
)
WEIGHTS = sa.Table(  # files of candidates' runs, on their way to other hosts
    "weights",
    _schema,
    sa.Column("study", sa.String(120), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("file", sa.String(64), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

ORIGINS = sa.Table(  # what trials name by its digest in meta: kept once, however many there are
    "origins",
    _schema,
    sa.Column("study", sa.String(120), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("content", sa.Text, nullable=False),  # JSON: the space, the uncommitted changes
)
JOBS = sa.Table(  # what workers are to do, who may come from any host
    "jobs",
    _schema,
    sa.Column("id", sa.String(120), primary_key=True),
    sa.Column("sweep", sa.String(64), index=True, nullable=False),
    sa.Column("kept_ms", sa.BigInteger, nullable=False),
    sa.Column("content", sa.Text, nullable=False),  # JSON: see `pipeline.work.job`
)
WORKERS = sa.Table(  # see `pipeline.study.storage.workers`
    "workers",
    _schema,
    sa.Column("owner", sa.String(200), primary_key=True),  # as in `trials`
    sa.Column("sweep", sa.String(64), index=True, nullable=False),
    sa.Column("slurm", sa.String(64)),  # JOB or JOB_TASK, where it was started by Slurm
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Column("seen", sa.Float, nullable=False),  # on the clock of leases
    sa.Column("code", sa.Integer),  # that it left with
    sa.Column("said", sa.Text),  # why, if something was wrong
    sa.Column("wish", sa.String(16)),  # of it alone
)
TURNS = sa.Table(  # see `pipeline.study.storage.turn`
    "turns",
    _schema,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)


def version(db: sa.Connection) -> int:
    """Of the tables that are there; 0: none are, or they are somebody else's."""
    inspector = sa.inspect(db)
    if not inspector.has_table(TRIALS.name):
        return 0
    if TRIALS.c.token.name not in {each["name"] for each in inspector.get_columns(TRIALS.name)}:
        return 0  # Optuna's, too, are called trials
    if not inspector.has_table(SCHEMA_VERSION.name):
        return 1
    known: int = db.execute(sa.select(SCHEMA_VERSION.c.version)).scalar_one()
    return known


def strangers(db: sa.Connection) -> list[str]:
    """Tables of somebody else where no ledger can be made: of the same names, and in a file any."""
    names = set(sa.inspect(db).get_table_names())
    return sorted(names if db.dialect.name == "sqlite" else names & set(_schema.tables))


def upgrade(db: sa.Connection) -> None:
    """Creates the tables, or changes older ones step by step, within the caller's transaction."""
    found = version(db)  # another creator may have been faster
    if found == 0:
        _schema.create_all(db)
        db.execute(sa.insert(SCHEMA_VERSION).values(version=VERSION))
        return
    for step in STEPS[found - 1 :]:
        step(db)
    db.execute(sa.update(SCHEMA_VERSION).values(version=max(found, VERSION)))


def _to_2(db: sa.Connection) -> None:
    db.execute(sa.text("ALTER TABLE trials ADD COLUMN claim VARCHAR(32)"))
    WEIGHTS.create(db)
    SCHEMA_VERSION.create(db)
    db.execute(sa.insert(SCHEMA_VERSION).values(version=2))


def _to_3(db: sa.Connection) -> None:
    """Each trial had its origin to itself, hundreds of kilobytes; they are moved one by one."""
    db.execute(sa.text("ALTER TABLE trials ADD COLUMN arithmetic VARCHAR(16)"))
    db.execute(sa.text("CREATE INDEX trials_by_arithmetic ON trials (study, arithmetic)"))
    ORIGINS.create(db)
    row, known = TRIALS.c, set[tuple[str, str]]()
    for study, number in db.execute(sa.select(row.study, row.number)).all():
        this = (row.study == study) & (row.number == number)
        meta = json.loads(db.execute(sa.select(row.meta).where(this)).scalar_one())
        if source := meta.pop("source", None):
            meta["source"] = digest(source)
            if (key := (study, meta["source"])) not in known:
                content = {"study": study, "digest": key[1], "content": json.dumps(source)}
                db.execute(sa.insert(ORIGINS).values(content))
                known.add(key)
        moved = {"meta": json.dumps(meta), "arithmetic": arithmetic_key(meta)}
        db.execute(sa.update(TRIALS).where(this).values(moved))


def _to_4(db: sa.Connection) -> None:
    """Each trial was one part. No search of before goes on: its proposals were others."""
    db.execute(sa.text("ALTER TABLE studies ADD COLUMN reopened INTEGER NOT NULL DEFAULT 0"))
    for column in (
        "trial INTEGER NOT NULL DEFAULT 0",
        "since INTEGER NOT NULL DEFAULT 0",
        "until INTEGER",
        "starts BIGINT DEFAULT 0",
        "follows INTEGER",
        "cost BIGINT NOT NULL DEFAULT 0",
    ):
        db.execute(sa.text(f"ALTER TABLE trials ADD COLUMN {column}"))
    db.execute(sa.text("UPDATE trials SET trial = number"))
    # A run was begun before its parameters were written: one killed in between gets those of the
    # study's others, or is forgotten with them.
    unset = "parameters IS NULL AND study IN (SELECT id FROM studies WHERE kind = 'candidate')"
    others = "SELECT max(parameters) FROM trials AS other WHERE other.study = trials.study"
    db.execute(sa.text(f"UPDATE trials SET parameters = ({others}) WHERE {unset}"))
    db.execute(sa.text(f"DELETE FROM trials WHERE {unset}"))


def _to_5(db: sa.Connection) -> None:
    db.execute(sa.text("ALTER TABLE studies ADD COLUMN wish VARCHAR(16)"))
    for table in (JOBS, WORKERS, TURNS):
        table.create(db)


def arithmetic_key(meta: dict[str, Any]) -> str | None:
    """What trials of one arithmetic have in common: the digest of the fingerprint, if there is."""
    return digest(meta["arithmetic"])[:16] if "arithmetic" in meta else None


STEPS = (_to_2, _to_3, _to_4, _to_5)  # from version 1 to 2, ...
