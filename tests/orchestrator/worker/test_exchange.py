"""Objects between ranks by way of a store: what arrives, what it costs, what is left behind, and what happens when somebody is missing."""

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from data_pipeline.store.protocol import AccessDenied, StoreUnavailable
from orchestrator.codec import DecodeError
from orchestrator.errors import ConfigMismatch, Fenced, NoCheckpoint, PeerFailed
from orchestrator.worker.agreement import Failure, failure_among, on_every_rank, on_one_rank, try_on_every_rank
from orchestrator.worker.exchange import Exchange
from tests.orchestrator.worker.ranks import on_ranks


def test_every_rank_gets_what_is_meant_for_it():
    def talk(exchange: Exchange) -> tuple[object, ...]:
        name = f"rank {exchange.rank}"
        gathered = exchange.gather(name)
        given = exchange.scatter([f"for {one}" for one in gathered] if gathered is not None else None)
        told = exchange.broadcast(name if exchange.rank == 1 else None, source=1)
        return gathered, given, told, exchange.count(exchange.rank > 0)

    assert on_ranks(3, talk) == [
        (["rank 0", "rank 1", "rank 2"], "for rank 0", "rank 1", 2),
        (None, "for rank 1", "rank 1", 2),
        (None, "for rank 2", "rank 1", 2),
    ]


def test_a_value_that_a_store_would_refuse_arrives_in_pieces():
    """And a TCPStore drops the connection of whoever sends it more than 8 MiB at once."""
    server = tcp_store()
    large = bytes(range(256)) * (9 * 2**20 // 256)
    first, second = (Exchange(store, rank=rank, world_size=2) for rank, store in enumerate((server, server.clone())))

    second.gather(large)

    assert first.gather(b"") == [b"", large]


def test_nothing_is_left_on_the_store_once_everybody_has_read_it():
    stores: list[dist.Store] = []

    def talk(exchange: Exchange) -> None:
        stores.append(exchange._store)
        for number in range(50):
            exchange.broadcast(number)
            exchange.scatter(exchange.gather(bytes(3)))
            exchange.barrier()

    on_ranks(3, talk)

    assert stores[0].num_keys() <= 3, "but the last barrier's"


class Watched:
    """A store that counts what each rank asks of it."""

    def __init__(self, store: dist.Store, asked: Counter[int], rank: int) -> None:
        self._store, self._asked, self._rank = store, asked, rank

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: object) -> Any:
            self._asked[self._rank] += 1
            return getattr(self._store, name)(*arguments)

        return ask


@pytest.mark.parametrize("num_ranks", [2, 12])
def test_agreeing_costs_a_rank_the_same_however_many_there_are(num_ranks: int):
    asked: Counter[int] = Counter()

    def agree(exchange: Exchange) -> None:
        exchange._store = Watched(exchange._store, asked, exchange.rank)  # type: ignore[assignment]
        on_every_rank(exchange, lambda: None)

    on_ranks(num_ranks, agree)

    assert sorted(asked.values()) == [2] * (num_ranks - 1) + [4], "the last one to come tells the result"


def test_where_some_ranks_fail_all_learn_of_the_most_telling_error_and_whose_it_is():
    errors = {1: StoreUnavailable("no answer"), 3: ConfigMismatch("another model"), 4: ConfigMismatch("another one")}

    def act(exchange: Exchange) -> Failure | int:
        def action() -> int:
            if exchange.rank in errors:
                raise errors[exchange.rank]
            return exchange.rank

        assert try_on_every_rank(exchange, lambda: exchange.rank) == exchange.rank
        return try_on_every_rank(exchange, action)

    for failure in on_ranks(5, act):
        assert isinstance(failure, Failure)
        assert (repr(failure.error), failure.rank, failure.ranks) == (repr(errors[3]), 3, (1, 3, 4))


def test_ranks_that_fail_everywhere_are_not_taken_for_those_of_the_first_node():
    """With eight workers on a node, the first eight ranks would all be there."""
    failure = failure_among([StoreUnavailable("no answer")] * 32)

    assert failure is not None
    assert failure.ranks == (0, 1, 2, 3, 4, 5, 6, 31)


def test_an_error_of_one_rank_alone_is_not_passed_on():
    """The others wait, and are ended with it."""

    def act(exchange: Exchange) -> None:
        exchange._store.set_timeout(timedelta(seconds=1))
        on_every_rank(exchange, lambda: 1 // exchange.rank)

    first, second = on_ranks(2, act)

    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, PeerFailed)
    assert str(second).startswith("rank 1 waits for others in vain, or the rank that hosts their store is gone: ")


@pytest.mark.parametrize("error", [Fenced("a newer attempt has begun"), NoCheckpoint("none left"), ConfigMismatch("another model")])
def test_an_error_of_the_rank_that_acts_for_all_is_everybodys(error: Exception):
    def refuse() -> None:
        raise error

    failures = on_ranks(3, lambda exchange: on_one_rank(exchange, 2, refuse))

    assert [repr(failure) for failure in failures] == [repr(error)] * 3


@pytest.mark.parametrize("error", [DecodeError("written by another version"), AccessDenied("no credentials")])
def test_what_only_the_rank_that_acts_can_not_read_is_its_own(error: Exception):
    def read() -> None:
        raise error

    failures = on_ranks(3, lambda exchange: on_one_rank(exchange, 2, read))

    assert [type(failure) for failure in failures] == [PeerFailed, PeerFailed, type(error)]


@pytest.mark.parametrize(
    "error", [ConfigMismatch("another model"), NoCheckpoint("none left"), DecodeError("of another version"), StoreUnavailable("no answer")]
)
def test_an_error_that_may_be_one_hosts_is_everybodys_where_all_meet_it(error: Exception):
    """Where the way of one node to the store is bad, the next attempt is to leave that node."""

    def act(exchange: Exchange, *failing: int) -> None:
        def meet() -> None:
            if exchange.rank in failing:
                raise error

        on_every_rank(exchange, meet)

    assert [type(failure) for failure in on_ranks(2, lambda exchange: act(exchange, 0, 1))] == [type(error)] * 2
    assert [type(failure) for failure in on_ranks(2, lambda exchange: act(exchange, 1))] == [PeerFailed, type(error)]


def test_who_waits_in_one_exchange_keeps_nobody_out_of_another():
    """As the thread that writes checkpoints waits, beside the one that trains."""
    server = tcp_store()
    waiting = Exchange(dist.PrefixStore("save", server.clone()), rank=1, world_size=2)
    thread = threading.Thread(target=lambda: waiting.broadcast(None))
    thread.start()

    Exchange(dist.PrefixStore("main", server), rank=0, world_size=1).barrier()
    assert thread.is_alive()
    Exchange(dist.PrefixStore("save", server), rank=0, world_size=2).broadcast("go on")
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_a_store_that_is_gone_with_its_host_is_one_line():
    server = tcp_store()
    exchange = Exchange(dist.TCPStore("127.0.0.1", server.port, 2, False, timedelta(seconds=5)), rank=1, world_size=2)
    exchange.gather(None)
    del server

    with pytest.raises(PeerFailed, match=r"^rank 1 waits for others in vain, or the rank that hosts their store is gone: .+") as caught:
        exchange.barrier()
    assert "\n" not in str(caught.value)


HOST = """
import time
from datetime import timedelta
import torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, 2, True, timedelta(seconds=20), wait_for_workers=False)
print(store.port, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def host() -> Iterator[subprocess.Popen[str]]:
    """A process that hosts a store and says where."""
    with subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("operation", [Exchange.barrier, lambda exchange: exchange.broadcast(None)])
def test_a_store_that_is_frozen_with_its_host_holds_nobody_for_ever(host: subprocess.Popen[str], operation: Callable[[Exchange], object]):
    assert host.stdout is not None
    store = dist.TCPStore("127.0.0.1", int(host.stdout.readline()), 2, False, timedelta(seconds=1))
    exchange = Exchange(store, rank=1, world_size=2)
    host.send_signal(signal.SIGSTOP)

    with pytest.raises(PeerFailed, match=r"^rank 1 waits for others in vain, or .* is gone: it does not answer$"):
        operation(exchange)


def tcp_store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, 2, True, timedelta(seconds=20), wait_for_workers=False)
