from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrialState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRIAL_STATE_UNSPECIFIED: _ClassVar[TrialState]
    TRIAL_STATE_WAITING: _ClassVar[TrialState]
    TRIAL_STATE_COMPLETED: _ClassVar[TrialState]
    TRIAL_STATE_FAILED: _ClassVar[TrialState]
    TRIAL_STATE_INFEASIBLE: _ClassVar[TrialState]
    TRIAL_STATE_STOPPED: _ClassVar[TrialState]

class Goal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GOAL_UNSPECIFIED: _ClassVar[Goal]
    GOAL_MIN: _ClassVar[Goal]
    GOAL_MAX: _ClassVar[Goal]
TRIAL_STATE_UNSPECIFIED: TrialState
TRIAL_STATE_WAITING: TrialState
TRIAL_STATE_COMPLETED: TrialState
TRIAL_STATE_FAILED: TrialState
TRIAL_STATE_INFEASIBLE: TrialState
TRIAL_STATE_STOPPED: TrialState
GOAL_UNSPECIFIED: Goal
GOAL_MIN: Goal
GOAL_MAX: Goal

class Measurement(_message.Message):
    __slots__ = ("value", "low", "high")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    value: float
    low: float
    high: float
    def __init__(self, value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Objective(_message.Message):
    __slots__ = ("name", "unit", "goal", "reference")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    goal: Goal
    reference: float
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ..., goal: _Optional[_Union[Goal, str]] = ..., reference: _Optional[float] = ...) -> None: ...

class Trial(_message.Message):
    __slots__ = ("number", "state", "searcher", "rung", "policy_sha256", "objectives", "report", "failure", "parent", "teacher", "attempts", "policy_json", "evaluation_json", "report_json")
    class ObjectivesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Measurement
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Measurement, _Mapping]] = ...) -> None: ...
    class ReportEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Measurement
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Measurement, _Mapping]] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEARCHER_FIELD_NUMBER: _ClassVar[int]
    RUNG_FIELD_NUMBER: _ClassVar[int]
    POLICY_SHA256_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVES_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    TEACHER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    POLICY_JSON_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_JSON_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    number: int
    state: TrialState
    searcher: str
    rung: int
    policy_sha256: str
    objectives: _containers.MessageMap[str, Measurement]
    report: _containers.MessageMap[str, Measurement]
    failure: str
    parent: int
    teacher: int
    attempts: int
    policy_json: str
    evaluation_json: str
    report_json: str
    def __init__(self, number: _Optional[int] = ..., state: _Optional[_Union[TrialState, str]] = ..., searcher: _Optional[str] = ..., rung: _Optional[int] = ..., policy_sha256: _Optional[str] = ..., objectives: _Optional[_Mapping[str, Measurement]] = ..., report: _Optional[_Mapping[str, Measurement]] = ..., failure: _Optional[str] = ..., parent: _Optional[int] = ..., teacher: _Optional[int] = ..., attempts: _Optional[int] = ..., policy_json: _Optional[str] = ..., evaluation_json: _Optional[str] = ..., report_json: _Optional[str] = ...) -> None: ...
