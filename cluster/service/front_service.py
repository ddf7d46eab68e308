"""FrontService: fronts are queried, and what is on them is explained and exported."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from autoprune.errors import InputError, Violation
from autoprune.index.job_index import JobIndex
from autoprune.trial_json import trial_details
from cluster.proto.autoprune.v1 import front_service_pb2 as pb
from cluster.service.desk import Desk
from cluster.service.exports import Exports
from cluster.service.identity import Caller
from cluster.service.live import LiveLog
from cluster.service.messages import (
    FIELDS,
    masked_fields,
    objective_message,
    trial_message,
    trial_states,
)
from cluster.service.paging import page_place, page_size, page_token
from cluster.service.query import Answer, answered, pick_of
from cluster.service.refusal import Refusal, invalid, missing, precondition

_USUAL_PAGE, _LARGEST_PAGE = 100, 1000
_KEPT_TRIALS = 20_000  # serialised, of one job: some hundred bytes each
_KEPT_ANSWERS = 64
_ALL = FieldMask(paths=["*"])


class FrontService:
    """Answers the calls of `autoprune.v1.FrontService`, each for one caller."""

    def __init__(self, desk: Desk, exports: Exports) -> None:
        self._desk = desk
        self._exports = exports
        self._answers: OrderedDict[tuple[str, int, bytes], Answer] = OrderedDict()

    async def QueryFront(self, request: pb.QueryFrontRequest, caller: Caller) -> bytes:  # noqa: N802
        """Return a page of the front, or of what a query leaves of it.

        The page is put together from trials that are serialised already: a protocol buffer is
        the concatenation of its fields.
        """
        job, log = await self._desk.open(caller, request.job)
        size = page_size(request.page_size, _USUAL_PAGE, _LARGEST_PAGE)
        fields = masked_fields(request.field_mask)
        place = page_place(request, job.id, 2)
        sequence = place[0] if place else request.sequence or log.index.last_seq
        start = place[1] if place else 0
        answer = self._answer(job.id, request, log.index, sequence)
        numbers = answer.numbers[start : start + size].tolist()
        rest = pb.QueryFrontResponse(
            sequence=answer.sequence,
            objectives=[objective_message(x) for x in log.index.goals(answer.sequence)],
            total_size=len(answer.numbers),
        )
        if answer.hypervolume is not None:
            rest.hypervolume = answer.hypervolume
        if start + size < len(answer.numbers):
            rest.next_page_token = page_token(request, job.id, answer.sequence, start + size)
        parts = await _serialised(log, numbers, fields, answer.sequence)
        return b"".join([*parts, rest.SerializeToString()])

    async def GetTrial(self, request: pb.GetTrialRequest, caller: Caller) -> Message:  # noqa: N802
        """Return a trial with everything that is known of it."""
        _, log = await self._desk.open(caller, request.job)
        number = _number(request.trial, log.index)
        (trial,) = await log.trials([number])
        return pb.GetTrialResponse(trial=trial_message(trial, masked_fields(_ALL)))

    async def ListTrials(self, request: pb.ListTrialsRequest, caller: Caller) -> Message:  # noqa: N802
        """Return a page of trials in the order of their numbers."""
        job, log = await self._desk.open(caller, request.job)
        size = page_size(request.page_size, _USUAL_PAGE, _LARGEST_PAGE)
        fields = masked_fields(request.field_mask)
        place = page_place(request, job.id, 1)
        numbers = log.index.numbers(trial_states(request.states))
        numbers = numbers[numbers >= (place[0] if place else 0)]
        response = pb.ListTrialsResponse()
        for trial in await log.trials(numbers[:size].tolist()):
            response.trials.append(trial_message(trial, fields))
        if len(numbers) > size:
            response.next_page_token = page_token(request, job.id, int(numbers[size]))
        return response

    async def ExplainTrial(self, request: pb.ExplainTrialRequest, caller: Caller) -> Message:  # noqa: N802
        """Return a trial, and what keeps it off the front."""
        _, log = await self._desk.open(caller, request.job)
        index = log.index
        number = _number(request.trial, index)
        dominators = index.dominators(number)
        is_on_front = bool((index.front().table.members == number).any())
        family = await log.trials(_family(number, index))
        trial = next(each for each in family if each.number == number)
        details = trial_details(
            trial,
            job=log.job,
            graph=log.graph,
            goals=index.goals(),
            same=family,
            dominated_by=dominators,
        )
        return pb.ExplainTrialResponse(
            trial=trial_message(trial, masked_fields(_ALL)),
            on_front=is_on_front,
            dominated_by=dominators,
            violations=sorted(trial.evaluation.violations) if trial.evaluation else (),
            details_json=json.dumps(details),
        )

    async def ExportTrial(  # noqa: N802
        self, request: pb.ExportTrialRequest, caller: Caller
    ) -> AsyncIterator[Message]:
        """Send a trial in a format: one of its files, from an offset on."""
        job, log = await self._desk.open(caller, request.job)
        number = _number(request.trial, log.index)
        async for message in self._exports.stream(job, log, number, request):
            yield message

    def _answer(
        self, job: str, request: pb.QueryFrontRequest, index: JobIndex, sequence: int
    ) -> Answer:
        """Return the answer to a query, the same one for all of its pages."""
        if sequence < 0:
            raise invalid([Violation("sequence", sequence, "0 or more")])
        if sequence > index.last_seq:
            message = f"{request.job!r} has no event {sequence}: the newest is {index.last_seq}"
            raise Refusal(grpc.StatusCode.OUT_OF_RANGE, message)
        plain = pb.QueryFrontRequest()
        plain.CopyFrom(request)
        for name in ("page_token", "page_size", "field_mask", "sequence"):
            plain.ClearField(name)
        key = (job, sequence, plain.SerializeToString(deterministic=True))
        if key not in self._answers:
            self._answers[key] = answered(request, index, sequence)
            if len(self._answers) > _KEPT_ANSWERS:
                self._answers.popitem(last=False)
        return self._answers[key]


async def _serialised(
    log: LiveLog, numbers: Sequence[int], fields: Sequence[str], sequence: int
) -> list[bytes]:
    """Return trials as entries of a response, as of `sequence`."""
    reports = log.index.reported(numbers)
    chosen = sum(1 << FIELDS.index(each) for each in fields)  # hashed faster than their names
    keys = [
        (number, chosen, report if report <= sequence else 0)
        for number, report in zip(numbers, reports, strict=True)
    ]
    parts = [log.cache.get(key, b"") for key in keys]
    unknown = [place for place, part in enumerate(parts) if not part]
    trials = await log.trials([numbers[place] for place in unknown]) if unknown else []
    for place, trial in zip(unknown, trials, strict=True):
        message = trial_message(trial, fields, with_report=keys[place][2] > 0)
        # One trial alone: its field, tag and length included.
        part = pb.QueryFrontResponse(trials=[message]).SerializeToString()
        parts[place] = log.cache[keys[place]] = part
    while len(log.cache) > _KEPT_TRIALS:
        log.cache.popitem(last=False)
    return parts


def _number(text: str, index: JobIndex) -> int:
    """Return the number of the trial that is meant; a `Refusal` where there is none."""
    pick = pick_of(text)
    if pick.number is not None:
        if pick.number >= len(index):
            raise missing("trial", pick.number)
        return pick.number
    table = index.front().table
    if not len(table.members):
        raise precondition("the front is empty: no feasible trial has completed yet")
    try:
        return pick.among(table)
    except InputError as error:
        raise invalid([Violation("trial", text[:200], str(error))]) from None


def _family(number: int, index: JobIndex) -> list[int]:
    """Return the trials of the same policy at all rungs, by number."""
    first = number
    while (parent := index.outline(first).parent) is not None:
        first = parent
    found, waiting = [], [first]
    while waiting:
        found.append(waiting.pop())
        waiting += index.children(found[-1])
    return sorted(found)
