"""Studies, and how they are listed."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ValidationInfo, field_validator

from nestor.errors import LossMaximized
from nestor.options.base import Flag, about
from nestor.options.mistakes.sentences import violation
from nestor.schemas.base import CURSOR, NOTE, Attributes, Name, Note, Schema, Tags
from nestor.schemas.patches import Patch
from nestor.schemas.storable import MAX_ATTRIBUTES_BYTES
from nestor.schemas.trials import Curve, TrialProgress, Verdict

Direction = Literal["minimize", "maximize"]
_METRIC = about(
    "a metric of the problem, which ranks steps and trials; null: the loss on all validation examples",
    example="accuracy",
)
_TRIAL_COUNTS = about(
    "number of trials in each state; states without trials are left out", example={"running": 1, "complete": 4}
)


class StudyCreate(Schema):
    """A study to create."""

    name: Annotated[Name, about("unique among your studies", example="digits-l2")]
    metric: Annotated[Name | None, _METRIC] = None
    direction: Annotated[
        Direction | None,
        about("whether a lower or a higher metric is better; null: minimize"),
    ] = None
    user_attrs: Annotated[
        Attributes,
        about(
            f"stored with the study, up to {MAX_ATTRIBUTES_BYTES:,} bytes; Nestor does not read them",
            example={"owner": "ada"},
        ),
    ] = {}
    tags: Annotated[Tags, about("labels of the study", example=["baseline"])] = ()
    note: Annotated[Note, NOTE] = ""
    load_if_exists: Annotated[Flag, about("if the name is taken, return that study; false: refuse")] = False

    @field_validator("direction")
    @classmethod
    def _maximizes_a_metric(cls, direction: Direction | None, info: ValidationInfo) -> Direction | None:
        if direction == "maximize" and info.data.get("metric", "") is None:
            raise violation(LossMaximized)
        return direction


class StudyPatch(Patch):
    """Changes to a study: a JSON merge patch (RFC 7396). A field that is left out stays as it is."""

    metric: Annotated[
        Name | None, about("as in a new study; it can change only before the first trial", example="accuracy")
    ] = None
    direction: Annotated[Direction | None, about("as in a new study; it can change only before the first trial")] = None

    def ranking(self) -> dict[str, Any]:
        """The fields of `nestor.ranking.Ranking` that the patch names. A direction of null is the default one."""
        fields = {"metric": self.metric, "direction": self.direction or "minimize"}
        return {name: value for name, value in fields.items() if name in self.model_fields_set}


class Study(Schema):
    """A study with a summary of its trials."""

    id: Annotated[UUID, about("identifies the study in paths of the API")]
    name: Annotated[str, about("unique among your studies", example="digits-l2")]
    metric: Annotated[str | None, _METRIC]
    direction: Annotated[Direction, about("whether a lower or a higher metric is better")]
    user_attrs: Annotated[dict[str, Any], about("as its user set them", example={"owner": "ada"})]
    tags: Annotated[tuple[str, ...], about("labels of the study", example=["baseline"])]
    note: Annotated[str, NOTE] = ""
    created_at: Annotated[datetime, about("in UTC")]
    updated_at: Annotated[datetime, about("last change of its attributes, tags, note or ranking, in UTC")]
    trial_counts: Annotated[dict[str, int], _TRIAL_COUNTS]
    best_value: Annotated[
        float | None, about("the best value of any of its trials; null: no step was evaluated", example=0.173)
    ]
    best_trial: Annotated[
        int | None, about("number of the trial with the best value; null: no step was evaluated", example=3)
    ]
    best_trial_id: Annotated[UUID | None, about("identifies this trial in paths of the API")]


class StudyRestore(Schema):
    """How a deleted study comes back."""

    name: Annotated[Name | None, about("a new name; null: the one that it had", example="digits-l2 restored")] = None


class StudyCopy(Schema):
    """What a copy of a study is called."""

    name: Annotated[Name, about("unique among your studies", example="digits-l2 copy")]


class StudySummary(Study):
    """A study in a list, with what is going on in it."""

    last_activity_at: Annotated[
        datetime, about("when a trial last recorded something or changed its state, or the study was changed, in UTC")
    ]
    verdict: Annotated[Verdict | None, about("of the best trial")]
    sparkline: Annotated[
        Curve,
        about(
            "at most 30 values of the best trial, evenly over its evaluated steps, with the first, the best and the "
            "last; empty if an earlier version recorded the trial"
        ),
    ]
    running: Annotated[TrialProgress | None, about("the newest of its running trials; null: none runs")]
    deleted_at: Annotated[datetime | None, about("in UTC; null: it is not deleted")] = None
    purged_after: Annotated[
        datetime | None, about("when a deleted study can no longer be restored, in UTC; null: it is not deleted")
    ] = None


class Activity(Schema):
    """What goes on in all your studies. Deleted ones do not count."""

    studies: Annotated[int, about("number of your studies", example=12)]
    trial_counts: Annotated[dict[str, int], _TRIAL_COUNTS]
    failed_recently: Annotated[
        int,
        about(
            "trials that failed in the last 24 hours and were not retried, of the newest 1,000 failed trials of each "
            "study",
            example=1,
        ),
    ]
    workers: Annotated[int, about("running workers, as `GET /workers` lists them", example=2)]
    queued: Annotated[int, about("number of trials that wait for a worker, of all users", example=3)]


class StudySort(StrEnum):
    """What a list of studies is sorted by. Studies without a value come last."""

    created_at = "created_at"
    last_activity_at = "last_activity_at"
    by_name = "name"  # members of enumerations have a `name`
    best_value = "best_value"
    trials = "trials"


class StudyPage(Schema):
    """Some studies."""

    items: Annotated[tuple[StudySummary, ...], about("at most as many as `limit`, fewer if they are large")]
    next_cursor: Annotated[str | None, CURSOR] = None
