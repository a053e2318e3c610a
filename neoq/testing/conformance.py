"""The suite that every backend passes: what neoq promises, one case a sentence.

Subclass it for a backend of your own, in a test file of yours::

    from neoq.testing import BackendConformance

    class TestMyBackend(BackendConformance):
        features = MyBackend.features

        def make_backend(self, **options):
            return MyBackend("mine://somewhere-empty", **options)

Each case gets backends on an empty store from `make_backend`, and closes them at its end: a job that its
backend loses without a word, or a thread that outlives it, fails the case. Cases for ``features`` that the
backend has not are not collected; with ``durable`` the suite needs `reopen` (and `spoil`, `dump`, `damage`,
or it skips what these are for), with ``shared`` it needs `another` (and `die`, where the store does not judge
by leases alone), with ``transactions`` `connection`.
"""

from __future__ import annotations

from neoq.testing.cases.attempts import AftermathCases, SurroundingsCases, UndoneCases
from neoq.testing.cases.audit import AuditCases, PastTickCases, WorkerCases
from neoq.testing.cases.batch_races import BatchRaceCases
from neoq.testing.cases.batches import BatchCases, MemberCases, StopCases
from neoq.testing.cases.blocks import BatchBlockCases, BatchTransactionCases
from neoq.testing.cases.capacity import CapacityCases
from neoq.testing.cases.coded import CodecCases
from neoq.testing.cases.counting import CountCases
from neoq.testing.cases.damaged import SealedStoreCases
from neoq.testing.cases.dead_heads import DeadHeadCases, DeadHeadLeaseCases
from neoq.testing.cases.durable import DurableCases, LeaseCases, SharedCases, TransactionCases
from neoq.testing.cases.endings import DrainCases, ForkCases, ShutdownCases
from neoq.testing.cases.filters import FilterCases
from neoq.testing.cases.gather import GatherCases
from neoq.testing.cases.interrupts import CancelRunningCases, DeadlineCases, TimeoutCases
from neoq.testing.cases.limited_workers import (
    AgingWorkerCases,
    ChangingLimitCases,
    QuietWorkerCases,
    RateWorkerCases,
)
from neoq.testing.cases.limits import AgingCases, LimitLeaseCases, MaxRunningCases, RateCases
from neoq.testing.cases.line_heads import CancelledHeadCases, FairnessCases, OverrideCases
from neoq.testing.cases.line_workers import ClaimedAheadCases, LineLeaseCases
from neoq.testing.cases.lines import LimitsCases, OrderedCases, PerKeyCases
from neoq.testing.cases.listening import LifeCases, ListenCases, MiddlewareCases
from neoq.testing.cases.many import ListenManyCases
from neoq.testing.cases.operating import (
    CancelCases,
    DeleteCases,
    LookingCases,
    ManyCases,
    PauseCases,
    ProgressCases,
    RetryByHandCases,
)
from neoq.testing.cases.options import OwnTimeoutCases, ScheduledAtCases, UidCases
from neoq.testing.cases.payloads import PayloadCases
from neoq.testing.cases.periodic import CatchUpCases, CronCases, TickCases
from neoq.testing.cases.records import AttemptCases, KindCases, ScheduleCases
from neoq.testing.cases.reentry import ReentryCases
from neoq.testing.cases.retries import LogCases, RetryCases, SignalCases
from neoq.testing.cases.seam import AddCases, ChangeCases, ClaimCases, SettleCases
from neoq.testing.cases.series import SeriesCases
from neoq.testing.cases.spans import DebounceCases, SpanTransactionCases, UniqueForCases
from neoq.testing.cases.steps import SignalToCases, StepCases, StepLeaseCases, StepTransactionCases
from neoq.testing.cases.suite import leave_out_cases
from neoq.testing.cases.tasks import ClaimByKindCases, TaskCases
from neoq.testing.cases.timing import FutureCases, OrderCases, RunnerCases
from neoq.testing.cases.unique import UniqueCases
from neoq.testing.cases.waiting import FarWaitCases, WatchCases
from neoq.testing.cases.workflows import (
    LineWorkerCases,
    SharedCommitCases,
    WorkflowCases,
    WorkflowTransactionCases,
)


class BackendConformance(
    PayloadCases,
    UniqueCases,
    FutureCases,
    OrderCases,
    RunnerCases,
    CapacityCases,
    RetryCases,
    SignalCases,
    LogCases,
    UndoneCases,
    SurroundingsCases,
    AftermathCases,
    DeadlineCases,
    TimeoutCases,
    CancelRunningCases,
    CancelCases,
    RetryByHandCases,
    ManyCases,
    ProgressCases,
    WatchCases,
    FarWaitCases,
    DeleteCases,
    PauseCases,
    LookingCases,
    CountCases,
    SeriesCases,
    AuditCases,
    WorkerCases,
    PastTickCases,
    FilterCases,
    ListenCases,
    MiddlewareCases,
    LifeCases,
    CronCases,
    TickCases,
    CatchUpCases,
    OwnTimeoutCases,
    ScheduledAtCases,
    UidCases,
    DrainCases,
    ShutdownCases,
    ForkCases,
    AddCases,
    ClaimCases,
    SettleCases,
    ChangeCases,
    KindCases,
    ClaimByKindCases,
    TaskCases,
    AttemptCases,
    ScheduleCases,
    ReentryCases,
    BatchCases,
    MemberCases,
    StopCases,
    BatchRaceCases,
    GatherCases,
    StepCases,
    SignalToCases,
    StepLeaseCases,
    StepTransactionCases,
    OrderedCases,
    PerKeyCases,
    LimitsCases,
    LineLeaseCases,
    ClaimedAheadCases,
    CancelledHeadCases,
    FairnessCases,
    OverrideCases,
    RateWorkerCases,
    QuietWorkerCases,
    AgingWorkerCases,
    ChangingLimitCases,
    DeadHeadCases,
    DeadHeadLeaseCases,
    MaxRunningCases,
    RateCases,
    AgingCases,
    LimitLeaseCases,
    UniqueForCases,
    SpanTransactionCases,
    DebounceCases,
    ListenManyCases,
    CodecCases,
    SealedStoreCases,
    WorkflowCases,
    SharedCommitCases,
    LineWorkerCases,
    WorkflowTransactionCases,
    BatchBlockCases,
    BatchTransactionCases,
    DurableCases,
    LeaseCases,
    SharedCases,
    TransactionCases,
):
    """Every promise of a backend. Override `make_backend`, and what your backend's ``features`` ask for."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        leave_out_cases(cls)
