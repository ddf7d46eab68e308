"""Requests made by hand to do harm: too large, too deep, not finite, forged, and out of bounds."""

from __future__ import annotations

import json
import string
import time
from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cluster.proto.autoprune.v1 import front_service_pb2 as front_pb
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from tests.made_up_run import log
from tests.service.calls import (
    INVALID,
    METHODS,
    OK,
    Method,
    Outcome,
    by_name,
    outcome,
)
from tests.service.conftest import Served, body_of, submit
from tests.service.wild import FULL, sensible

JOB = "victim"
EXHAUSTED, OUT_OF_RANGE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE
EVIL_NAMES = (
    "../../../../etc/passwd",
    "/etc/passwd",
    "..",
    "victim/../victim",
    "victim\0",
    "victim\n",
    "victim ",
    "VICTIM",
    "%2e%2e%2f",
    "os:system",
    "'; DROP TABLE service_job; --",
    "ｖictim",
    "A" * 10_000,
)


@pytest.fixture(scope="module")
def channel(idle: Served) -> Iterator[grpc.Channel]:
    with idle.channel() as found:
        submit(SearchServiceStub(found), body_of(JOB))
        idle.write_log(JOB, body_of(JOB), log(30))
        yield found


def call(channel: grpc.Channel, name: str, **fields: Any) -> Outcome:
    """Make a call about the one job that there is."""
    method = by_name[name]
    job = {"job": JOB} if method.names_a_job else {}
    return outcome(channel, method, method.kind(**{**job, **fields}))


def validated(channel: grpc.Channel, text: str) -> Outcome:
    return call(channel, "SubmitJob", request_id="x", spec_json=text, validate_only=True)


@pytest.mark.parametrize("method", METHODS, ids=lambda each: each.name)
def test_messages_have_a_size(channel: grpc.Channel, method: Method) -> None:
    limit = 4 * 2**20 if method.name == "SubmitJob" else 2**16
    assert outcome(channel, method, b"\0" * (limit + 1)).code is EXHAUSTED
    assert outcome(channel, method, b"\0" * (5 * 2**20)).code is EXHAUSTED
    assert outcome(channel, method, b"\0" * 10_000).code is grpc.StatusCode.INTERNAL


def test_a_message_has_a_size_when_it_is_unpacked(idle: Served, channel: grpc.Channel) -> None:
    server = psutil.Process(idle.process.pid)
    before = server.memory_info().rss
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        with pytest.raises(grpc.RpcError) as caught:
            by_name["GetJob"].on(channel)(b"\0" * 2**27, compression=compression)
        assert caught.value.code() is EXHAUSTED
    assert server.memory_info().rss < before + 2**26


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(FULL | {"x": "A" * 2**20}),
        "[" * 10_000,
        '{"a":' * 10_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        json.dumps(FULL)[:-1] + ', "x": ' + "[" * 32 + "]" * 32 + "}",
        json.dumps(FULL | {"searchers": ["nsga2"] * 5000}),
        json.dumps(FULL).replace("0.05", "NaN"),
        json.dumps(FULL).replace("0.05", "-Infinity"),
        json.dumps(FULL).replace("0.05", "1e999"),
        json.dumps(FULL).replace("0.05", "1" * 5000),
        json.dumps(FULL).replace("0.05", str(2**63)),
        json.dumps(FULL).replace("small", "\\ud800"),
        json.dumps(FULL).replace("small", "\\u0000"),
        json.dumps(FULL)[:-1],
        "null",
        "",
    ],
    ids=lambda text: text[-12:],
)
def test_a_job_is_json_within_bounds(channel: grpc.Channel, text: str) -> None:
    assert validated(channel, json.dumps(FULL)).code is OK
    found = validated(channel, text)
    assert (found.code, found.fields) == (INVALID, ("spec_json",))


def test_a_job_as_deep_as_allowed_is_looked_at(channel: grpc.Channel) -> None:
    deep = json.dumps(FULL)[:-1] + ', "x": ' + "[" * 31 + "]" * 31 + "}"
    assert validated(channel, deep).fields == ("x",)


def test_a_job_has_lists_within_bounds(channel: grpc.Channel) -> None:
    for key, entry in (("searchers", "nsga2"), ("constraints", "maccs <= 1"), ("rungs", {})):
        assert validated(channel, json.dumps(FULL | {key: [entry] * 100})).fields != (key,)
        begun = time.monotonic()
        assert validated(channel, json.dumps(FULL | {key: [entry] * 101})).fields == (key,)
        assert time.monotonic() - begun < 5.0


def test_whatever_is_wrong_the_answer_arrives(channel: grpc.Channel) -> None:
    """A client refuses a status that is too long, and so would never hear what is wrong."""
    for name in ("x", "é" * 300, "A" * 1500, "\u202e" * 250):
        found = validated(channel, json.dumps(FULL | {"searchers": [name] * 100}))
        assert found.code is INVALID
        assert found.fields[0] == "searchers.0.name"
        assert "more)" in found.message
    weights = {f"nothing-{number}": 1.0 for number in range(1000)}
    pick = front_pb.Pick(weights=front_pb.Weights(weights=weights))
    assert call(channel, "QueryFront", pick=pick).code is INVALID
    paths = [f"nothing_{number}" for number in range(3000)]
    assert call(channel, "QueryFront", field_mask={"paths": paths}).fields[0] == "field_mask"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_bounds_and_weights_are_finite(channel: grpc.Channel, value: float) -> None:
    for side in ("least", "most"):
        bounds = [front_pb.Bound(metric="error"), front_pb.Bound(metric="macs", **{side: value})]
        assert call(channel, "QueryFront", bounds=bounds).fields == (f"bounds.1.{side}",)
    weights = front_pb.Weights(weights={"error": 1.0, "macs": value})
    found = call(channel, "QueryFront", pick=front_pb.Pick(weights=weights))
    assert found.fields == ("pick.weights.macs",)
    for method in ("GetTrial", "ExplainTrial", "ExportTrial"):
        found = call(channel, method, trial=f"weights:error=1,macs={value}")
        assert (found.code, found.fields) == (INVALID, ("trial",))
    found = call(channel, "ResumeJob", minutes=value)
    assert (found.code, found.fields) == (INVALID, ("minutes",))


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("ListJobs", "page_size"),
        ("ListTrials", "page_size"),
        ("QueryFront", "page_size"),
        ("QueryFront", "top"),
        ("QueryFront", "sequence"),
        ("WatchJob", "after_sequence"),
        ("WatchFront", "after_sequence"),
        ("ResumeJob", "trials"),
        ("ExportTrial", "offset"),
    ],
)
def test_numbers_lie_within_bounds(channel: grpc.Channel, method: str, field: str) -> None:
    more = {"trial": "0", "format": "torch"} if method == "ExportTrial" else {}
    bits = by_name[method].kind.DESCRIPTOR.fields_by_name[field].type
    least = -(2**31) if bits == FieldDescriptor.TYPE_INT32 else -(2**63)
    for value in (-1, least):
        found = call(channel, method, **{field: value}, **more)
        assert (found.code, found.fields) == (INVALID, (field,))
    if method == "ExportTrial":
        return  # what is too much depends on the file: see test_fronts
    huge = call(channel, method, **{field: -1 - least})
    expected = {"page_size": OK, "top": OK, "trials": INVALID}.get(field, OUT_OF_RANGE)
    assert huge.code is expected


def test_page_tokens_cannot_be_forged(idle: Served, channel: grpc.Channel) -> None:
    stub = SearchServiceStub(channel)
    for number in range(2):
        submit(stub, body_of(f"page-{number}"))
    for name, answer in (
        ("ListJobs", pb.ListJobsResponse),
        ("ListTrials", front_pb.ListTrialsResponse),
        ("QueryFront", front_pb.QueryFrontResponse),
    ):
        first = answer.FromString(call(channel, name, page_size=1).answer)
        good = first.next_page_token
        assert call(channel, name, page_size=2, page_token=good).code is OK
        for token in (*_forged(good), "x", "=" * 50, "WzFd", "é", "../..", "A" * 10_000):
            found = call(channel, name, page_size=1, page_token=token)
            assert (found.code, found.fields) == (INVALID, ("page_token",)), token
        other = {"states": [1]} if name != "QueryFront" else {"top": 5}
        assert call(channel, name, page_token=good, **other).fields == ("page_token",)
        if name != "ListJobs":
            idle.write_log("page-0", body_of("page-0"), log(5) if name == "ListTrials" else [])
            found = call(channel, name, page_token=good, job="page-0")
            assert found.fields == ("page_token",)


def _forged(token: str) -> Iterator[str]:
    """Yield a token with each of its characters changed, left out, and doubled."""
    signs = string.ascii_letters + string.digits + "-_"
    for place, sign in enumerate(token):
        other = signs[(signs.find(sign) + 1) % len(signs)]
        for replaced in (other, "", sign * 2):
            yield token[:place] + replaced + token[place + 1 :]


def test_a_page_token_ends_with_its_job(idle: Served, channel: grpc.Channel) -> None:
    """A new job of the same name has other trials."""
    stub = SearchServiceStub(channel)
    tokens = []
    for _ in range(2):
        submit(stub, body_of("again"))
        idle.write_log("again", body_of("again"), log(5))
        found = call(channel, "ListTrials", job="again", page_size=1)
        tokens.append(front_pb.ListTrialsResponse.FromString(found.answer).next_page_token)
        if len(tokens) == 1:
            stub.DeleteJob(pb.DeleteJobRequest(job="again"))
    old, new = (call(channel, "ListTrials", job="again", page_token=each) for each in tokens)
    assert old.fields == ("page_token",)
    assert new.code is OK


@pytest.mark.parametrize("method", METHODS, ids=lambda each: each.name)
def test_no_text_of_a_request_is_a_path(
    idle: Served, channel: grpc.Channel, method: Method
) -> None:
    """In every field of every message: refused, and the field is named."""
    base = sensible(method, JOB)[0]
    for text in EVIL_NAMES:
        for field, request in with_text(base, text):
            found = outcome(channel, method, request)
            assert found.code is INVALID, (field, text)
            named = any(each.startswith(field) for each in found.fields)
            is_opaque = field == "request_id" and text.isascii() and text.isprintable()
            assert named or (is_opaque and len(text) < 129 and " " not in text), (field, text)
    assert {each.name for each in idle.directory.parent.iterdir()} == {"server", "server.log"}


def with_text(message: Message, text: str) -> Iterator[tuple[str, Message]]:
    """Yield a message with `text` in each place that holds text, and the name of its field."""
    for field in message.DESCRIPTOR.fields:
        made = type(message)()
        made.CopyFrom(message)
        part = getattr(made, field.name)
        kind = field.message_type
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                part.append(text)
            else:
                setattr(made, field.name, text)
            yield field.name, made
        elif kind is not None and kind.GetOptions().map_entry:
            part[text] = 1.0
            yield field.name, made
        elif kind is not None:
            inner = part.add() if field.is_repeated else part
            for _, changed in with_text(inner, text):
                inner.CopyFrom(changed)
                yield field.name, made
