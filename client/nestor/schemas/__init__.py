"""The wire: every field that crosses HTTP is declared here, once, for server, worker and client.

Unknown fields are refused, not ignored, and numbers must be finite: a misspelled option or a NaN is an error when the
request arrives, not an hour later.
"""

from __future__ import annotations

from nestor.schemas.access import Health as Health
from nestor.schemas.access import Me as Me
from nestor.schemas.access import Scope as Scope
from nestor.schemas.access import SessionCreate as SessionCreate
from nestor.schemas.access import Token as Token
from nestor.schemas.access import TokenCreate as TokenCreate
from nestor.schemas.access import TokenCreated as TokenCreated
from nestor.schemas.access import TokenPage as TokenPage
from nestor.schemas.access import Version as Version
from nestor.schemas.access import Worker as Worker
from nestor.schemas.access import Workers as Workers
from nestor.schemas.base import API as API
from nestor.schemas.base import CHUNK_BYTES as CHUNK_BYTES
from nestor.schemas.base import MOST_STEPS as MOST_STEPS
from nestor.schemas.base import Count as Count
from nestor.schemas.base import Digest as Digest
from nestor.schemas.base import Name as Name
from nestor.schemas.base import Priority as Priority
from nestor.schemas.base import Schema as Schema
from nestor.schemas.base import TensorName as TensorName
from nestor.schemas.presets import EntryPointInfo as EntryPointInfo
from nestor.schemas.presets import ParameterInfo as ParameterInfo
from nestor.schemas.presets import PresetInfo as PresetInfo
from nestor.schemas.presets import Presets as Presets
from nestor.schemas.problems import AnyProblem as AnyProblem
from nestor.schemas.problems import EntryPointProblem as EntryPointProblem
from nestor.schemas.problems import Preset as Preset
from nestor.schemas.problems import PresetProblem as PresetProblem
from nestor.schemas.problems import ProgramProblem as ProgramProblem
from nestor.schemas.problems import TrialCreate as TrialCreate
from nestor.schemas.problems import TrialSpec as TrialSpec
from nestor.schemas.problems import WarmStart as WarmStart
from nestor.schemas.records import Action as Action
from nestor.schemas.records import Attempt as Attempt
from nestor.schemas.records import Attempts as Attempts
from nestor.schemas.records import Desired as Desired
from nestor.schemas.records import Event as Event
from nestor.schemas.records import EventPage as EventPage
from nestor.schemas.records import EventType as EventType
from nestor.schemas.records import HyperparameterInfo as HyperparameterInfo
from nestor.schemas.records import Hyperparameters as Hyperparameters
from nestor.schemas.records import LogLevel as LogLevel
from nestor.schemas.records import LogLine as LogLine
from nestor.schemas.records import LogPage as LogPage
from nestor.schemas.records import State as State
from nestor.schemas.records import StepColumns as StepColumns
from nestor.schemas.records import Study as Study
from nestor.schemas.records import StudyCreate as StudyCreate
from nestor.schemas.records import StudyPage as StudyPage
from nestor.schemas.records import StudyPatch as StudyPatch
from nestor.schemas.records import Trial as Trial
from nestor.schemas.records import TrialExtend as TrialExtend
from nestor.schemas.records import TrialPage as TrialPage
from nestor.schemas.records import TrialPriority as TrialPriority
from nestor.schemas.references import ReferencedColumn as ReferencedColumn
from nestor.schemas.references import ReferencedFile as ReferencedFile
from nestor.schemas.references import ReferencedSplit as ReferencedSplit
from nestor.schemas.steps import Step as Step
from nestor.schemas.steps import TensorSummary as TensorSummary
from nestor.schemas.uploads import BlobCreate as BlobCreate
from nestor.schemas.uploads import Dataset as Dataset
from nestor.schemas.uploads import DatasetCreate as DatasetCreate
from nestor.schemas.uploads import Program as Program
from nestor.schemas.uploads import ProgramCreate as ProgramCreate
from nestor.schemas.uploads import Upload as Upload
from nestor.schemas.validation import build as build
