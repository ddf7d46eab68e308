import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_DRAINING: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
    JOB_STATE_FINISHED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_DRAINING: JobState
JOB_STATE_CANCELLED: JobState
JOB_STATE_FINISHED: JobState
JOB_STATE_FAILED: JobState

class Job(_message.Message):
    __slots__ = ("name", "state", "detail", "spec_json", "create_time", "sequence", "trials", "trials_by_state", "front_size", "hypervolume", "elapsed_seconds", "preparation_json")
    class TrialsByStateEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    TRIALS_BY_STATE_FIELD_NUMBER: _ClassVar[int]
    FRONT_SIZE_FIELD_NUMBER: _ClassVar[int]
    HYPERVOLUME_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PREPARATION_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: JobState
    detail: str
    spec_json: str
    create_time: _timestamp_pb2.Timestamp
    sequence: int
    trials: int
    trials_by_state: _containers.ScalarMap[str, int]
    front_size: int
    hypervolume: float
    elapsed_seconds: float
    preparation_json: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[JobState, str]] = ..., detail: _Optional[str] = ..., spec_json: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sequence: _Optional[int] = ..., trials: _Optional[int] = ..., trials_by_state: _Optional[_Mapping[str, int]] = ..., front_size: _Optional[int] = ..., hypervolume: _Optional[float] = ..., elapsed_seconds: _Optional[float] = ..., preparation_json: _Optional[str] = ...) -> None: ...
