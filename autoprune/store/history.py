"""The history of a job: what its log adds up to, and the entries it is made of.

    store.append(job, [history.asked(0, policy, searcher="dense", batch=0)])
    past = History.replay(store.events(job))
    past.known(policy.sha256, rung=0)          # the trial that answers, or None

The body of each kind of event; the functions of this module are the only writers of
these bodies, and `History` is their only reader:

    OPENED      {}
    CLOSED      {"reason": "finished" | "interrupted" | ...}
    ASKED       {"policy": Policy.to_json(), "searcher", "rung", "parent": number | null,
                 "batch": number of the `ask` call, shared by all that it proposed}
    REPEATED    {"searcher", "batch", "policy"}            trial: the one that answers
    COMPLETED   {"evaluation": Evaluation.to_json()}       with the attempt
    FAILED      {"failure": Failure.to_json()}             with the attempt
    RETRIED     {"failure": Failure.to_json()}             with the attempt that failed
    INFEASIBLE  {"evaluation": ...}                        cheap costs and violations
    STOPPED     {"reason"}
    REPORTED    {"evaluation": ...}                        on the report split; last wins
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from autoprune.contracts.store import Entry, Event, EventKind
from autoprune.errors import PolicyError, StoreError
from autoprune.policy import Policy
from autoprune.trial import Evaluation, Failure, Trial, TrialState


def opened() -> Entry:
    """A session of the controller begins."""
    return Entry(EventKind.OPENED)


def closed(reason: str) -> Entry:
    """The session ends, for `reason`."""
    return Entry(EventKind.CLOSED, body={"reason": reason})


def asked(
    trial: int, policy: Policy, *, searcher: str, batch: int, rung: int = 0, parent: int | None = None
) -> Entry:
    """`searcher` proposed `policy` in its ask call number `batch`; it becomes trial `trial`.

    `parent` is the completed trial, one rung below, that this one was promoted from.
    """
    body = {
        "policy": policy.to_json(),
        "searcher": searcher,
        "rung": rung,
        "parent": parent,
        "batch": batch,
    }
    return Entry(EventKind.ASKED, trial, body=body)


def repeated(trial: int, policy: Policy, *, searcher: str, batch: int) -> Entry:
    """`searcher` proposed a policy that `trial` already answers."""
    body = {"searcher": searcher, "batch": batch, "policy": policy.to_json()}
    return Entry(EventKind.REPEATED, trial, body=body)


def completed(trial: int, attempt: int, evaluation: Evaluation) -> Entry:
    """Attempt `attempt` of `trial` measured `evaluation`."""
    return Entry(EventKind.COMPLETED, trial, attempt, {"evaluation": evaluation.to_json()})


def failed(trial: int, attempt: int, failure: Failure) -> Entry:
    """Attempt `attempt` of `trial` failed, and no other one follows."""
    return Entry(EventKind.FAILED, trial, attempt, {"failure": failure.to_json()})


def retried(trial: int, attempt: int, failure: Failure) -> Entry:
    """Attempt `attempt` of `trial` failed, and another one follows."""
    return Entry(EventKind.RETRIED, trial, attempt, {"failure": failure.to_json()})


def infeasible(trial: int, evaluation: Evaluation) -> Entry:
    """`trial` breaks a hard constraint on a cheap cost; `evaluation` holds the costs."""
    return Entry(EventKind.INFEASIBLE, trial, body={"evaluation": evaluation.to_json()})


def stopped(trial: int, reason: str) -> Entry:
    """`trial` was lost or cut, for `reason`; its policy may be asked for again."""
    return Entry(EventKind.STOPPED, trial, body={"reason": reason})


def reported(trial: int, evaluation: Evaluation) -> Entry:
    """`trial`, which is completed, was measured again, on the report split."""
    return Entry(EventKind.REPORTED, trial, body={"evaluation": evaluation.to_json()})


class History:
    """The fold of a job's log, event by event.

    `trials` maps numbers to trials as the log knows them: dispatching is not logged, so
    a trial stays WAITING until its terminal event. `close_reason` is why the last session
    ended; None while one is open, and after one that was killed.
    """

    def __init__(self) -> None:
        self.trials: dict[int, Trial] = {}
        self.last_seq = 0
        self.close_reason: str | None = None
        self._pending: dict[int, None] = {}  # a set that keeps the order of asking
        self._answers: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        self._counts: Counter[tuple[str, int, TrialState]] = Counter()
        self._earlier_s = 0.0
        self._opened_at = 0.0
        self._session_s = 0.0

    @classmethod
    def replay(cls, events: Iterable[Event]) -> History:
        """Return the history of a whole log; raises what `apply` raises."""
        history = cls()
        for event in events:
            history.apply(event)
        return history

    def apply(self, event: Event) -> None:
        """Add the next event of the log.

        Raises `StoreError`, and changes nothing, if `event` does not follow: a gap in
        `seq`, a trial number out of order, an event outside a session, a second terminal
        event, a report of a trial that is not completed, or a body that cannot be read.
        """
        if event.seq != self.last_seq + 1:
            raise StoreError(f"the log has a gap: event {event.seq} follows event {self.last_seq}")
        if event.kind is not EventKind.OPENED and (self.last_seq == 0 or self.is_closed):
            raise _impossible(event, "no session is open; a session begins with OPENED")
        try:
            _FOLDS[event.kind](self, event)
        except (KeyError, TypeError, ValueError, AttributeError, PolicyError) as error:
            raise _impossible(event, f"its body cannot be read ({error!r})") from error
        self.last_seq = event.seq
        # The wall clock may be set back; time already spent stays spent.
        self._session_s = max(self._session_s, event.time - self._opened_at)

    @property
    def next_number(self) -> int:
        """The number of the next trial to be asked."""
        return len(self.trials)

    @property
    def pending(self) -> list[Trial]:
        """The trials that were asked and have no terminal event, in the order of asking."""
        return [self.trials[number] for number in self._pending]

    @property
    def is_closed(self) -> bool:
        """Say whether the last session ended in good order."""
        return self.close_reason is not None

    @property
    def elapsed_s(self) -> float:
        """Seconds spent: over all sessions, from OPENED to the session's last event."""
        return self._earlier_s + self._session_s

    def known(self, policy_sha256: str, rung: int) -> Trial | None:
        """Return the first trial that answers or will answer a policy at `rung`.

        A stopped trial answers nothing.
        """
        numbers = self._answers.get((policy_sha256, rung), [])
        trials = (self.trials[number] for number in numbers)
        return next((trial for trial in trials if trial.state is not TrialState.STOPPED), None)

    def count(
        self,
        searcher: str | None = None,
        rung: int | None = None,
        states: Collection[TrialState] | None = None,
    ) -> int:
        """Return how many trials match; None matches everything."""
        return sum(
            count
            for (its_searcher, its_rung, state), count in self._counts.items()
            if (searcher is None or its_searcher == searcher)
            and (rung is None or its_rung == rung)
            and (states is None or state in states)
        )

    def _open(self, event: Event) -> None:
        self._earlier_s += self._session_s
        self._session_s, self._opened_at = 0.0, event.time
        self.close_reason = None

    def _close(self, event: Event) -> None:
        self.close_reason = str(event.body["reason"])

    def _ask(self, event: Event) -> None:
        body = event.body
        if event.trial != self.next_number:
            raise _impossible(event, f"the next trial is number {self.next_number}")
        policy = Policy.from_json(body["policy"])
        trial = Trial(
            event.trial, policy, body["searcher"], rung=body["rung"], parent=body["parent"]
        )
        if trial.parent is not None:
            self._check_promotion(event, trial, trial.parent)
        self._put(trial)
        self._answers[policy.sha256, trial.rung].append(trial.number)

    def _check_promotion(self, event: Event, trial: Trial, parent: int) -> None:
        lower = self.trials.get(parent)
        if lower is None or lower.state is not TrialState.COMPLETED:
            raise _impossible(event, f"its parent {parent} is not a completed trial")
        if lower.policy != trial.policy or lower.rung != trial.rung - 1:
            raise _impossible(event, f"its parent {parent} has another policy, or is not one rung below")

    def _repeat(self, event: Event) -> None:
        self._trial(event)

    def _complete(self, event: Event) -> None:
        evaluation = Evaluation.from_json(event.body["evaluation"])
        trial = self._attempt(event)
        self._put(
            replace(trial, state=TrialState.COMPLETED, evaluation=evaluation, failure=None)
        )

    def _fail(self, event: Event) -> None:
        failure = Failure.from_json(event.body["failure"])
        self._put(replace(self._attempt(event), state=TrialState.FAILED, failure=failure))

    def _retry(self, event: Event) -> None:
        failure = Failure.from_json(event.body["failure"])
        self._put(replace(self._attempt(event), failure=failure))

    def _refuse(self, event: Event) -> None:
        evaluation = Evaluation.from_json(event.body["evaluation"])
        trial = self._unfinished(event)
        self._put(replace(trial, state=TrialState.INFEASIBLE, evaluation=evaluation))

    def _stop(self, event: Event) -> None:
        self._put(replace(self._unfinished(event), state=TrialState.STOPPED))

    def _report(self, event: Event) -> None:
        evaluation = Evaluation.from_json(event.body["evaluation"])
        trial = self._trial(event)
        if trial.state is not TrialState.COMPLETED:
            raise _impossible(event, f"the trial is {trial.state}; only a completed one is reported")
        self._put(replace(trial, report=evaluation))

    def _trial(self, event: Event) -> Trial:
        if event.trial not in self.trials:
            raise _impossible(event, "no such trial was asked")
        return self.trials[event.trial]

    def _unfinished(self, event: Event) -> Trial:
        trial = self._trial(event)
        if trial.state.is_terminal:
            raise _impossible(event, f"the trial is already {trial.state}")
        return trial

    def _attempt(self, event: Event) -> Trial:
        """Return the trial of an attempt's result, with its attempts counted."""
        trial = self._unfinished(event)
        # Equal is allowed: an attempt that was preempted does not count.
        if event.attempt < trial.attempts:
            raise _impossible(event, f"attempt {trial.attempts} has already ended")
        return replace(trial, attempts=event.attempt)

    def _put(self, trial: Trial) -> None:
        """Add a trial or replace it, and keep the indexes in step."""
        old = self.trials.get(trial.number)
        if old is not None:
            self._counts[old.searcher, old.rung, old.state] -= 1
        self._counts[trial.searcher, trial.rung, trial.state] += 1
        self.trials[trial.number] = trial
        if trial.state.is_terminal:
            self._pending.pop(trial.number, None)
        else:
            self._pending[trial.number] = None


_FOLDS: dict[EventKind, Callable[[History, Event], None]] = {
    EventKind.OPENED: History._open,
    EventKind.CLOSED: History._close,
    EventKind.ASKED: History._ask,
    EventKind.REPEATED: History._repeat,
    EventKind.COMPLETED: History._complete,
    EventKind.FAILED: History._fail,
    EventKind.RETRIED: History._retry,
    EventKind.INFEASIBLE: History._refuse,
    EventKind.STOPPED: History._stop,
    EventKind.REPORTED: History._report,
}


def _impossible(event: Event, why: str) -> StoreError:
    trial = "" if event.trial is None else f" of trial {event.trial}"
    return StoreError(f"event {event.seq} ({event.kind}{trial}) cannot happen: {why}")
