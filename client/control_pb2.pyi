from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("hospital", "version", "process", "state", "since", "address", "reason", "kind", "study", "run", "round", "answered", "refused", "dropped", "bytes_in", "bytes_out", "worker_restarts", "started")
    HOSPITAL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    WORKER_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    hospital: str
    version: str
    process: int
    state: str
    since: str
    address: str
    reason: str
    kind: str
    study: str
    run: str
    round: int
    answered: int
    refused: int
    dropped: int
    bytes_in: int
    bytes_out: int
    worker_restarts: int
    started: str
    def __init__(self, hospital: _Optional[str] = ..., version: _Optional[str] = ..., process: _Optional[int] = ..., state: _Optional[str] = ..., since: _Optional[str] = ..., address: _Optional[str] = ..., reason: _Optional[str] = ..., kind: _Optional[str] = ..., study: _Optional[str] = ..., run: _Optional[str] = ..., round: _Optional[int] = ..., answered: _Optional[int] = ..., refused: _Optional[int] = ..., dropped: _Optional[int] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., worker_restarts: _Optional[int] = ..., started: _Optional[str] = ...) -> None: ...

class StudiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StudiesReply(_message.Message):
    __slots__ = ("studies",)
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[Study]
    def __init__(self, studies: _Optional[_Iterable[_Union[Study, _Mapping]]] = ...) -> None: ...

class Study(_message.Message):
    __slots__ = ("digest", "name", "approved")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    APPROVED_FIELD_NUMBER: _ClassVar[int]
    digest: str
    name: str
    approved: bool
    def __init__(self, digest: _Optional[str] = ..., name: _Optional[str] = ..., approved: bool = ...) -> None: ...

class ApproveRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class ApproveReply(_message.Message):
    __slots__ = ("file",)
    FILE_FIELD_NUMBER: _ClassVar[int]
    file: str
    def __init__(self, file: _Optional[str] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class RevokeReply(_message.Message):
    __slots__ = ("file",)
    FILE_FIELD_NUMBER: _ClassVar[int]
    file: str
    def __init__(self, file: _Optional[str] = ...) -> None: ...

class BudgetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BudgetReply(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Spent]
    def __init__(self, rows: _Optional[_Iterable[_Union[Spent, _Mapping]]] = ...) -> None: ...

class Spent(_message.Message):
    __slots__ = ("data", "study", "rounds", "epsilon", "delta", "cap")
    DATA_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    data: str
    study: str
    rounds: int
    epsilon: float
    delta: float
    cap: float
    def __init__(self, data: _Optional[str] = ..., study: _Optional[str] = ..., rounds: _Optional[int] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., cap: _Optional[float] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StopReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Event(_message.Message):
    __slots__ = ("at", "kind", "text", "values")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    at: str
    kind: str
    text: str
    values: _containers.ScalarMap[str, str]
    def __init__(self, at: _Optional[str] = ..., kind: _Optional[str] = ..., text: _Optional[str] = ..., values: _Optional[_Mapping[str, str]] = ...) -> None: ...
