"""Who may call what: tokens on every method, and tenants that do not see each other."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster.client.connection import TOKEN
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from cluster.service.identity import Scope, new_token
from tests.made_up_run import log
from tests.service import http2
from tests.service.calls import (
    INVALID,
    METHODS,
    NOT_ALLOWED,
    NOT_FOUND,
    OF_JOBS,
    OK,
    UNKNOWN_CALLER,
    Headers,
    Method,
    Outcome,
    bearer,
    by_name,
    outcome,
)
from tests.service.conftest import Served, body_of, wait_until

NEVER = {
    UNKNOWN_CALLER,
    NOT_ALLOWED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNIMPLEMENTED,
}
TENANTS = ("north", "south")
# Of whoever starts the server, for his own use as a client.
OPERATORS = f"autoprune_operator_{'Op3rat0r' * 5}123"
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda each: each.name)


@dataclass(frozen=True)
class Guarded:
    """A server that asks for tokens: `tokens` are by tenant and scope."""

    served: Served
    file: Path
    tokens: dict[tuple[str, Scope], str]
    channel: grpc.Channel

    def token(self, scope: Scope, tenant: str = "north") -> str:
        return self.tokens[tenant, scope]

    def call(self, method: Method, request: Any = b"", tenant: str = "north") -> Outcome:
        """Make a call with a token that may do anything in a tenant."""
        headers = bearer(self.token(Scope.ADMIN, tenant))
        return outcome(self.channel, method, request, headers)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    file = directory / "tokens.json"
    tokens = {
        (tenant, scope): new_token(file, f"{tenant}-{scope.name.lower()}", tenant, scope, None)
        for tenant in TENANTS
        for scope in Scope
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN, OPERATORS)
        served = Served(directory / "server", "--max-jobs", "0", "--token-file", str(file))
    with served.channel() as channel:
        yield Guarded(served, file, tokens, channel)
    served.kill()


def wrong_headers(guarded: Guarded) -> dict[str, Headers]:
    """Return what is no good token, by what is wrong with it."""
    good = guarded.token(Scope.ADMIN)
    name, _, secret = good.rpartition("_")
    other = guarded.token(Scope.ADMIN, "south")
    past = datetime.now(UTC) - timedelta(seconds=1)
    expired = _made(guarded.file, "expired", past)
    return {
        "none": (),
        "expired": bearer(expired),
        "another secret": bearer(f"{good[:-1]}{'A' if good[-1] != 'A' else 'B'}"),
        "another's secret": bearer(f"{name}_{other.rpartition('_')[2]}"),
        "an unknown id": bearer(f"autoprune_nobody_{secret}"),
        "no id": bearer(secret),
        "too short": bearer(good[:-1]),
        "too long": bearer(f"{good}A"),
        "a space": bearer(f" {good}"),
        "empty": [("authorization", "")],
        "only the scheme": [("authorization", "Bearer")],
        "no scheme": [("authorization", good)],
        "another scheme": [("authorization", f"Basic {good}")],
        "huge": bearer("A" * 8000),
        "two": [*bearer(good), *bearer(good)],
        "another header": [("x-token", f"Bearer {good}")],
        "binary": [("authorization-bin", f"Bearer {good}".encode())],
    }


def _made(file: Path, name: str, expires: datetime | None = None) -> str:
    """Make a token for as long as it takes to be known; who makes it anew replaces it."""
    _take_out(file, name)
    return new_token(file, name, "north", Scope.ADMIN, expires)


def _take_out(file: Path, name: str) -> None:
    body = json.loads(file.read_text())
    body["tokens"] = [each for each in body["tokens"] if each["id"] != name]
    file.write_text(json.dumps(body))


@every_method
def test_without_a_good_token_nobody_gets_in(guarded: Guarded, method: Method) -> None:
    for what, headers in wrong_headers(guarded).items():
        assert outcome(guarded.channel, method, b"", headers).code is UNKNOWN_CALLER, what


@every_method
def test_headers_that_are_no_text_are_no_token(guarded: Guarded, method: Method) -> None:
    good = f"Bearer {guarded.token(Scope.ADMIN)}".encode()
    values = [b"\xff\xfe", good + b"\xff", good[:25] + b"\xff" + good[25:], good + b"\0"]
    for value in values:
        before = _refusals(guarded, method)
        with socket.create_connection(("127.0.0.1", guarded.served.port), timeout=60) as connection:
            call = http2.headers(method.path, [(b"authorization", value)])
            connection.sendall(http2.greeting() + call + http2.message(b""))
            http2.answer(connection)
        wait_until(lambda: _refusals(guarded, method) == before + 1, f"{value!r} was let in")  # noqa: B023


def _refusals(guarded: Guarded, method: Method) -> int:
    """Return how often the server's log says that a method refused somebody unknown."""
    wanted = {"method": method.name, "code": "UNAUTHENTICATED"}
    lines = [json.loads(each) for each in guarded.served.log.read_text().splitlines()]
    return sum(wanted.items() <= each.items() for each in lines)


@every_method
def test_a_call_needs_its_scope_and_no_more(guarded: Guarded, method: Method) -> None:
    request = method.kind()
    if method.names_a_job:
        request.job = "nobody"
    for scope in Scope:
        found = outcome(guarded.channel, method, request, bearer(guarded.token(scope)))
        if scope < method.scope:
            assert found.code is NOT_ALLOWED
            assert method.scope.name.lower() in found.message
        else:
            assert found.code not in NEVER, found


def test_only_what_changes_nothing_is_for_readers() -> None:
    for method in METHODS:
        reads = method.name.startswith(("Get", "List", "Watch", "Query", "Explain", "Export"))
        assert (method.scope is Scope.READ) == reads, method.name
    assert by_name["DeleteJob"].scope is Scope.ADMIN


def test_nobody_unknown_learns_whether_his_request_was_one(guarded: Guarded) -> None:
    for method in METHODS:
        assert outcome(guarded.channel, method, b"\xff\xff").code is UNKNOWN_CALLER
        assert outcome(guarded.channel, method, b"\0" * 2**20).code is UNKNOWN_CALLER


def test_everybody_may_ask_for_health(guarded: Guarded) -> None:
    """It says nothing of tenants; reflection, too, is open: see test_service_server."""
    stub = health_pb2_grpc.HealthStub(guarded.channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == 1


def test_the_token_file_is_followed(guarded: Guarded) -> None:
    """Who is added is let in at once, who is taken out is not; a damaged file changes nothing."""
    listing = by_name["ListJobs"]
    headers = bearer(_made(guarded.file, "guest"))
    assert outcome(guarded.channel, listing, b"", headers).code is OK
    whole = guarded.file.read_bytes()
    for damage in (whole[:-20], b"", b"[]", b'{"tokens": [{"id": 1}]}', b"[" * 100_000):
        guarded.file.write_bytes(damage)
        assert outcome(guarded.channel, listing, b"", headers).code is OK
        assert outcome(guarded.channel, listing, b"", bearer("x")).code is UNKNOWN_CALLER
    guarded.file.unlink()
    assert outcome(guarded.channel, listing, b"", headers).code is OK
    errors = [x for x in guarded.served.log.read_text().splitlines() if '"ERROR"' in x]
    assert len([x for x in errors if "still taken" in x]) == 6  # once for each change
    guarded.file.write_bytes(whole)
    _take_out(guarded.file, "guest")
    assert outcome(guarded.channel, listing, b"", headers).code is UNKNOWN_CALLER


def test_a_stream_ends_when_its_token_goes(guarded: Guarded) -> None:
    body = body_of("watched")
    submit(guarded, "north", body)
    guarded.served.write_log("watched", body, log(3)[:2], tenant="north")
    headers = bearer(_made(guarded.file, "leaver"))
    stub = SearchServiceStub(guarded.channel)
    stream = stub.WatchJob(pb.WatchJobRequest(job="watched"), metadata=headers, timeout=60)
    next(stream)
    _take_out(guarded.file, "leaver")
    guarded.served.write_log("watched", body, log(3)[2:4], tenant="north")
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() is UNKNOWN_CALLER


def test_the_token_file_is_its_owners_and_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    before = os.umask(0)
    try:
        made = [new_token(file, name, "north", Scope.READ, None) for name in ("one", "two")]
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(json.loads(file.read_text())["tokens"]) == 2
    for token in made:
        assert token.rpartition("_")[2] not in file.read_text()


def submit(guarded: Guarded, tenant: str, body: dict[str, Any], request_id: str = "") -> Outcome:
    spec = json.dumps(body)
    request = pb.SubmitJobRequest(request_id=request_id or body["name"], spec_json=spec)
    return guarded.call(by_name["SubmitJob"], request, tenant)


@pytest.mark.parametrize("method", OF_JOBS, ids=lambda each: each.name)
def test_jobs_of_others_do_not_exist(guarded: Guarded, method: Method) -> None:
    """Refused in the same words, whether the other tenant has a job of the name or not."""
    name = f"secret-{method.name.lower()}"
    request = method.kind(job=name)
    for field, value in (("trial", "0"), ("format", "torch")):
        if field in method.kind.DESCRIPTOR.fields_by_name:
            setattr(request, field, value)
    before = guarded.call(method, request, "south")
    assert before.code is NOT_FOUND
    assert submit(guarded, "north", body_of(name)).code is OK
    guarded.served.write_log(name, body_of(name), log(3), tenant="north")
    assert guarded.call(method, request, "south") == before
    assert guarded.call(method, request, "north").code is not NOT_FOUND


def test_a_name_and_a_request_are_a_tenants_own(guarded: Guarded) -> None:
    for tenant, seed in zip(TENANTS, (1, 2), strict=True):
        assert submit(guarded, tenant, body_of("ours", seed=seed), "the-same").code is OK
    for tenant, seed in zip(TENANTS, (1, 2), strict=True):
        found = guarded.call(by_name["GetJob"], pb.GetJobRequest(job="ours"), tenant)
        job = pb.GetJobResponse.FromString(found.answer).job
        assert json.loads(job.spec_json)["seed"] == seed
    submit(guarded, "north", body_of("only-north"))
    names = {tenant: _listed(guarded, tenant) for tenant in TENANTS}
    assert "only-north" in names["north"]
    assert names["south"] == ["ours"]


def _listed(guarded: Guarded, tenant: str) -> list[str]:
    found = guarded.call(by_name["ListJobs"], tenant=tenant)
    return [each.name for each in pb.ListJobsResponse.FromString(found.answer).jobs]


def test_a_page_token_is_of_no_use_to_another_tenant(guarded: Guarded) -> None:
    for tenant in TENANTS:
        for number in range(2):
            submit(guarded, tenant, body_of(f"page-{number}"))
    first = guarded.call(by_name["ListJobs"], pb.ListJobsRequest(page_size=1), "south")
    token = pb.ListJobsResponse.FromString(first.answer).next_page_token
    request = pb.ListJobsRequest(page_size=1, page_token=token)
    assert guarded.call(by_name["ListJobs"], request, "south").code is OK
    found = guarded.call(by_name["ListJobs"], request, "north")
    assert (found.code, found.fields) == (INVALID, ("page_token",))


def test_no_secret_is_told(guarded: Guarded) -> None:
    """Not in the log, in a status, or in what the system shows of the server's processes."""
    secrets = [token.rpartition("_")[2] for token in guarded.tokens.values()]
    said = []
    for headers in wrong_headers(guarded).values():
        secrets += [str(value).rpartition("_")[2] for _, value in headers if "_" in str(value)]
        said += [outcome(guarded.channel, method, b"", headers).message for method in METHODS]
    assert submit(guarded, "north", body_of("asked")).code is OK  # and so the clerk is there
    for name in (guarded.token(Scope.READ), f"x://me:{secrets[0]}@host"):
        said.append(guarded.call(by_name["GetJob"], pb.GetJobRequest(job=name)).message)
    server = psutil.Process(guarded.served.process.pid)
    processes = [server, *server.children(recursive=True)]
    assert len(processes) > 1
    shown = {
        (each.pid, file): Path(f"/proc/{each.pid}/{file}").read_text()
        for each in processes
        for file in ("cmdline", "environ")
    }
    assert OPERATORS in shown.pop((server.pid, "environ"))  # as it was started
    said += shown.values()
    secrets.append(OPERATORS)
    said.append(guarded.served.log.read_text())
    assert not [x for x in secrets if len(x) > 10 and any(x in each for each in said)]
