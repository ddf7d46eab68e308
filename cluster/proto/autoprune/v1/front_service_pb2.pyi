from cluster.proto.autoprune.v1 import trial_pb2 as _trial_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Bound(_message.Message):
    __slots__ = ("metric", "least", "most", "of_dense")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    LEAST_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    OF_DENSE_FIELD_NUMBER: _ClassVar[int]
    metric: str
    least: float
    most: float
    of_dense: bool
    def __init__(self, metric: _Optional[str] = ..., least: _Optional[float] = ..., most: _Optional[float] = ..., of_dense: bool = ...) -> None: ...

class Pick(_message.Message):
    __slots__ = ("knee", "best", "weights")
    KNEE_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    knee: bool
    best: str
    weights: Weights
    def __init__(self, knee: bool = ..., best: _Optional[str] = ..., weights: _Optional[_Union[Weights, _Mapping]] = ...) -> None: ...

class Weights(_message.Message):
    __slots__ = ("weights",)
    class WeightsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    weights: _containers.ScalarMap[str, float]
    def __init__(self, weights: _Optional[_Mapping[str, float]] = ...) -> None: ...

class QueryFrontRequest(_message.Message):
    __slots__ = ("job", "bounds", "sort", "top", "pick", "sequence", "field_mask", "page_size", "page_token", "everything")
    JOB_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    PICK_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FIELD_MASK_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    job: str
    bounds: _containers.RepeatedCompositeFieldContainer[Bound]
    sort: str
    top: int
    pick: Pick
    sequence: int
    field_mask: _field_mask_pb2.FieldMask
    page_size: int
    page_token: str
    everything: bool
    def __init__(self, job: _Optional[str] = ..., bounds: _Optional[_Iterable[_Union[Bound, _Mapping]]] = ..., sort: _Optional[str] = ..., top: _Optional[int] = ..., pick: _Optional[_Union[Pick, _Mapping]] = ..., sequence: _Optional[int] = ..., field_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., everything: bool = ...) -> None: ...

class QueryFrontResponse(_message.Message):
    __slots__ = ("trials", "next_page_token", "sequence", "objectives", "hypervolume", "total_size")
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVES_FIELD_NUMBER: _ClassVar[int]
    HYPERVOLUME_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    trials: _containers.RepeatedCompositeFieldContainer[_trial_pb2.Trial]
    next_page_token: str
    sequence: int
    objectives: _containers.RepeatedCompositeFieldContainer[_trial_pb2.Objective]
    hypervolume: float
    total_size: int
    def __init__(self, trials: _Optional[_Iterable[_Union[_trial_pb2.Trial, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., sequence: _Optional[int] = ..., objectives: _Optional[_Iterable[_Union[_trial_pb2.Objective, _Mapping]]] = ..., hypervolume: _Optional[float] = ..., total_size: _Optional[int] = ...) -> None: ...

class GetTrialRequest(_message.Message):
    __slots__ = ("job", "trial")
    JOB_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    job: str
    trial: str
    def __init__(self, job: _Optional[str] = ..., trial: _Optional[str] = ...) -> None: ...

class GetTrialResponse(_message.Message):
    __slots__ = ("trial",)
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    trial: _trial_pb2.Trial
    def __init__(self, trial: _Optional[_Union[_trial_pb2.Trial, _Mapping]] = ...) -> None: ...

class ListTrialsRequest(_message.Message):
    __slots__ = ("job", "states", "field_mask", "page_size", "page_token")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    FIELD_MASK_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    job: str
    states: _containers.RepeatedScalarFieldContainer[_trial_pb2.TrialState]
    field_mask: _field_mask_pb2.FieldMask
    page_size: int
    page_token: str
    def __init__(self, job: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_trial_pb2.TrialState, str]]] = ..., field_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTrialsResponse(_message.Message):
    __slots__ = ("trials", "next_page_token")
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    trials: _containers.RepeatedCompositeFieldContainer[_trial_pb2.Trial]
    next_page_token: str
    def __init__(self, trials: _Optional[_Iterable[_Union[_trial_pb2.Trial, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ExplainTrialRequest(_message.Message):
    __slots__ = ("job", "trial")
    JOB_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    job: str
    trial: str
    def __init__(self, job: _Optional[str] = ..., trial: _Optional[str] = ...) -> None: ...

class ExplainTrialResponse(_message.Message):
    __slots__ = ("trial", "on_front", "dominated_by", "violations", "details_json")
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    ON_FRONT_FIELD_NUMBER: _ClassVar[int]
    DOMINATED_BY_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_JSON_FIELD_NUMBER: _ClassVar[int]
    trial: _trial_pb2.Trial
    on_front: bool
    dominated_by: _containers.RepeatedScalarFieldContainer[int]
    violations: _containers.RepeatedScalarFieldContainer[str]
    details_json: str
    def __init__(self, trial: _Optional[_Union[_trial_pb2.Trial, _Mapping]] = ..., on_front: bool = ..., dominated_by: _Optional[_Iterable[int]] = ..., violations: _Optional[_Iterable[str]] = ..., details_json: _Optional[str] = ...) -> None: ...

class ExportTrialRequest(_message.Message):
    __slots__ = ("job", "trial", "format", "offset", "companion")
    JOB_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    COMPANION_FIELD_NUMBER: _ClassVar[int]
    job: str
    trial: str
    format: str
    offset: int
    companion: str
    def __init__(self, job: _Optional[str] = ..., trial: _Optional[str] = ..., format: _Optional[str] = ..., offset: _Optional[int] = ..., companion: _Optional[str] = ...) -> None: ...

class ExportTrialResponse(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: ExportHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[ExportHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class ExportHeader(_message.Message):
    __slots__ = ("trial", "size_bytes", "sha256", "max_error", "unit", "companions", "export_sha256")
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    COMPANIONS_FIELD_NUMBER: _ClassVar[int]
    EXPORT_SHA256_FIELD_NUMBER: _ClassVar[int]
    trial: int
    size_bytes: int
    sha256: str
    max_error: float
    unit: str
    companions: _containers.RepeatedScalarFieldContainer[str]
    export_sha256: str
    def __init__(self, trial: _Optional[int] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., max_error: _Optional[float] = ..., unit: _Optional[str] = ..., companions: _Optional[_Iterable[str]] = ..., export_sha256: _Optional[str] = ...) -> None: ...
