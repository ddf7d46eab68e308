"""Holding a job: the lease is renewed in the background for as long as the search lives.

with held(store, "resnet20", owner) as epoch:
    ...                                # write with this epoch
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from autoprune.contracts.store import Lease, Store
from autoprune.errors import FencedError, JobHeldError, StoreError

LEASE_S = 20.0
_RENEW_EVERY_S = 5.0
_LOOK_EVERY_S = 0.5
_log = logging.getLogger(__name__)


@contextmanager
def held(store: Store, job: str, owner: str, *, instead_of: int | None = None) -> Iterator[int]:
    """Acquire a job, keep its lease alive in the background, and release it at the end.

    Yields the epoch to write with. A lease that nobody renews is waited for, 20 s at most;
    `JobHeldError` means that another controller is alive.
    """
    epoch = _acquired(store, job, owner, instead_of)
    is_over = threading.Event()
    keeper = threading.Thread(target=_keep, args=(store, job, epoch, is_over), daemon=True)
    keeper.start()
    try:
        yield epoch
    finally:
        is_over.set()
        keeper.join()
        with suppress(StoreError):  # it runs out by itself
            store.release(job, epoch)


def _acquired(store: Store, job: str, owner: str, instead_of: int | None) -> int:
    before = store.lease(job)
    deadline = time.monotonic() + LEASE_S + _RENEW_EVERY_S
    while True:
        try:
            return store.acquire(job, owner, LEASE_S, instead_of=instead_of)
        except JobHeldError:
            now = store.lease(job)
            if _is_alive(before, now) or time.monotonic() > deadline:
                raise
            before = now
        time.sleep(_LOOK_EVERY_S)


def _is_alive(before: Lease | None, now: Lease | None) -> bool:
    """Say whether a lease was renewed or acquired between two looks at it."""
    if before is None or now is None or before.epoch != now.epoch:
        return now is not None
    return now.remaining_s > before.remaining_s


def _keep(store: Store, job: str, epoch: int, is_over: threading.Event) -> None:
    while not is_over.wait(_RENEW_EVERY_S):
        try:
            store.renew(job, epoch, LEASE_S)
        except FencedError as error:
            _log.warning("%s", error)
            return  # the next write is refused, which ends the search
        except StoreError as error:
            _log.warning("the lease is not renewed: %s", error)
