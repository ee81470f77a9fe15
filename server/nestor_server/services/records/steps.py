"""Recorded steps as columns, for plots and data frames. PostgreSQL writes their JSON, and the server passes it on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

from sqlalchemy import TextClause, func, select, text
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import StepColumnUnknown
from nestor.schemas.thinning import intervals
from nestor_server.models import StepNumbers, Trial
from nestor_server.services.records import thinning
from nestor_server.services.trials import queries
from nestor_server.services.versions import Versioned

COLUMNS = (*schemas.Step.model_fields, "recorded_at")
DEFAULT_LIMIT = 10_000
MAX_LIMIT = 100_000
MAX_BYTES = 4 * 2**20  # of an answer, so that memory does not follow the size of steps
SAMPLED = 32  # steps whose size says how many more fit into an answer


def columns(
    session: Session,
    owner_id: UUID,
    trial_id: UUID,
    *,
    names: list[str] | None = None,
    after: int = 0,
    limit: int | None = None,
    max_points: int | None = None,
) -> Versioned:
    """A `schemas.StepColumns` of the steps whose number is above `after`, in order, up to `MAX_BYTES`.

    Args:
        limit: the most steps that are read; by default `DEFAULT_LIMIT`, or with `max_points` `MAX_LIMIT`.
        max_points: the most steps that are returned; see `thinning`.

    Raises:
        InvalidInput: a name is not in `COLUMNS`.
        TrialNotFound: raised by the functions of the result.
    """
    after = min(after, schemas.MOST_STEPS)
    names = list(dict.fromkeys(names or COLUMNS))
    if unknown := [name for name in names if name not in COLUMNS]:
        raise StepColumnUnknown(column=unknown[0], columns=list(COLUMNS))
    limit = limit or (DEFAULT_LIMIT if max_points is None else MAX_LIMIT)

    def read() -> tuple[bytes, str]:
        # Read before the steps. So a response may contain more than its `seq` says, and the next poll finds nothing
        # new. In the other order, the next poll could miss steps.
        trial = queries.read(session, owner_id, trial_id, Trial.seq, Trial.step, Trial.hyperparameters)
        declared = [item["name"] for item in trial.hyperparameters or ()]
        until = min(after + limit, trial.step)
        given = {"trial": trial_id, "seq": trial.seq, "newest": trial.step, "declared": declared}
        given |= {"after": after, "limit": limit, "max_bytes": MAX_BYTES}
        thins, older = max_points is not None and until - after > max_points, 0
        if max_points is not None and thins:
            first = session.scalar(select(func.min(StepNumbers.number)).where(StepNumbers.trial_id == trial_id))
            older = until if first is None else first - 1
            n_intervals = intervals(_n_columns(names), max_points)
            given |= {"until": until, "older": older, "intervals": n_intervals}
        reorders = declared != sorted(declared, key=_in_jsonb)
        statement = _statement(tuple(names), reorders=reorders, thins=thins, has_older=older > after)
        body: str = session.execute(statement, given).scalar_one()
        return body.encode(), str(trial.seq)

    return Versioned(lambda: str(queries.read(session, owner_id, trial_id, Trial.seq).seq), read)


def _n_columns(names: Sequence[str]) -> int:
    """Those by which steps are thinned."""
    return max(1, len(thinning.NUMERIC.intersection(names)))


def _in_jsonb(name: str) -> tuple[int, bytes]:
    """JSONB stores the keys of an object in this order."""
    return len(name.encode()), name.encode()


@lru_cache(maxsize=64)
def _statement(names: tuple[str, ...], *, reorders: bool, thins: bool, has_older: bool) -> TextClause:
    """Reads a `schemas.StepColumns` as JSON.

    It is text, because building it of SQLAlchemy's expressions takes ten times as long as running it for 100 steps.

    Args:
        names: some of `COLUMNS`.
        reorders: hyperparameters have to be put into the order of their declaration.
        thins: read only steps that a plot needs.
        has_older: as in `thinning.of_steps`.
    """
    cells = [f"c{i}" for i in range(len(names))]
    values = ", ".join(f"{_json(name, reorders)} AS {cell}" for name, cell in zip(names, cells, strict=True))
    lists = (
        f"""'"{name}":[' || coalesce(string_agg({cell}, ',' ORDER BY number), '') || ']'"""
        for name, cell in zip(names, cells, strict=True)
    )
    size = " + ".join(f"octet_length({cell}) + 1" for cell in cells)
    # The first steps tell how many fit into an answer, so that PostgreSQL writes few that do not. The sum decides.
    fitting = f"(SELECT ceil(2 * :max_bytes / avg({size})) FROM ({_written(values, '', str(SAMPLED))}) AS written)"
    kept = thinning.kept(thinning.of_steps(names, has_older=has_older), _n_columns(names)) if thins else ""
    chosen = _written(values, kept, f"least(:limit, {fitting})")
    return text(f"""
        SELECT '{{"columns":{{' || {" || ',' || ".join(lists)} || '}},"seq":' || CAST(:seq AS bigint) ||
            ',"next_after":' || CASE WHEN max(number) < :newest THEN max(number)::text ELSE 'null' END || '}}'
        FROM (
            SELECT *, sum({size}) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) - ({size}) AS before
            FROM ({chosen}) AS written
        ) AS measured WHERE before < :max_bytes
    """)


def _written(values: str, condition: str, limit: str) -> str:
    """The first steps, each with these `values`.

    The concatenation with {} decompresses a long step once, and not once for each value. OFFSET 0 keeps PostgreSQL from
    computing the values again where they are measured.
    """
    return f"""
        SELECT number, {values} FROM (
            SELECT number, recorded_at, data || '{{}}' AS data FROM steps
            WHERE trial_id = :trial AND number > :after {condition} ORDER BY number LIMIT {limit}
        ) AS chosen OFFSET 0
    """


def _json(name: str, reorders: bool) -> str:
    """The JSON of one column of `COLUMNS`, in SQL."""
    if name == "recorded_at":
        return """concat('"', to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '"')"""
    value = f"data->'{name}'"
    if name != "hyperparameters":
        return f"coalesce(({value})::text, 'null')"
    summaries = f"coalesce(nullif({value}, 'null'), '{{}}')"
    if not reorders:
        return f"({summaries})::text"
    order = "array_position(CAST(:declared AS text[]), key) NULLS LAST, at"
    each = f"jsonb_each({summaries}) WITH ORDINALITY AS entries (key, value, at)"
    return f"coalesce((SELECT json_object_agg(key, value ORDER BY {order})::text FROM {each}), '{{}}')"
