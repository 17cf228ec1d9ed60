"""With the same seeds, a session over gRPC and one in memory reveal the same, to the last bit.

Truncations round at random, by the masks; so two sessions agree exactly only when their keys do. The keys' entropy is
given here, in no other place: a real session always draws it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest

from parley.functions import linear, neural, order
from parley.plan.builder import Builder
from parley.plan.graph import Kind, Type
from parley.protocols.base import Party
from parley.ring import fixed
from parley.runtime.channel import Channel
from parley.runtime.dealer import DealerRuntime
from parley.runtime.local import channel_pair, combine
from parley.runtime.party import PartyRuntime
from parley.runtime.session import Execution, Prepared, Revealed
from services.identity import create_authority
from tests.services.harness import Bob, Office, start_bob

NAMES = ("alice", "bob")
TYPE = Type(Kind.SHARED, (6, 5), 16, 32)
Ends = tuple[Channel, Channel]


@pytest.fixture(scope="module")
def bob(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bob]:
    directory = tmp_path_factory.mktemp("identities")
    yield from start_bob(Office(directory, create_authority(directory / "authority")).identity)


def plan() -> Prepared:
    builder = Builder(NAMES)
    x = builder.add("load", slot="x", kind=2, shape=TYPE.shape, scale=TYPE.scale, bound=TYPE.bound)
    hidden, _ = order.relu(linear.matmul(x, linear.swap(x)))
    results = {"hidden": hidden, "softmax": linear.factor(neural.softmax(hidden))}
    for name, value in results.items():
        builder.add("reveal", linear.shared(value), name=name, receivers=("submitter", "bob"))
    return Prepared.of(builder.finish())


def run(peers: Ends, dealing: tuple[Ends, Ends], seed: int) -> dict[tuple[str, str], Any]:
    """One session over these channels, its keys drawn from `seed`; the input is always the same."""
    prepared, number = plan(), count()
    generator = np.random.default_rng(0)
    values = fixed.encode(generator.normal(size=TYPE.shape), TYPE.scale)
    share = generator.integers(-(2**63), 2**63 - 1, TYPE.shape)
    shares = (share, values - share)
    execution = Execution(prepared, 0, {"x": "x"}, {})
    results: list[list[Revealed]] = [[], []]
    errors: list[BaseException] = []

    def entropy(role: int) -> bytes:
        return bytes([role, seed, *range(30)])

    def party(index: int) -> None:
        others: list[Channel | None] = [None, None]
        others[1 - index] = peers[index]
        me = Party(index, NAMES, lambda name: np.zeros(0))
        runtime = PartyRuntime(b"the same session", me, others, dealing[index][0], partial(entropy, index))
        runtime.vault.put("x", TYPE, shares[index])
        runtime.announce(execution)
        results[index] = runtime.execute(execution)

    def dealer() -> None:
        runtime = DealerRuntime(b"the same session", [pair[1] for pair in dealing], lambda: entropy(10 + next(number)))
        runtime.vault.put("x", TYPE, None)
        runtime.execute(execution)

    def guarded(action: Any) -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)
            for channel in (*peers, *dealing[0], *dealing[1]):
                channel.close(str(error))

    threads = [
        threading.Thread(target=guarded, args=(action,)) for action in (dealer, partial(party, 0), partial(party, 1))
    ]
    with np.errstate(over="ignore"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    for channel in (*peers, *dealing[0], *dealing[1]):
        channel.close("done")
    if errors:
        raise errors[0]
    return {(item.name, item.receiver): item.values for item in combine(results)}


def in_memory(seed: int) -> dict[tuple[str, str], Any]:
    return run(channel_pair("alice", "bob"), (channel_pair("alice", "dealer"), channel_pair("bob", "dealer")), seed)


def test_the_same_seeds_give_the_same_bits(bob: Bob) -> None:
    for seed in (1, 2):
        streams = [bob.streams(f"session-{seed}-{number}") for number in range(3)]
        over_grpc = run(streams[0], (streams[1], streams[2]), seed)
        expected = in_memory(seed)
        assert over_grpc.keys() == expected.keys()
        for key in expected:
            assert np.array_equal(over_grpc[key], expected[key])


def test_other_seeds_round_otherwise() -> None:
    """The comparison above can fail: other masks change the last bits."""
    first, second = in_memory(1), in_memory(1)
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert not all(np.array_equal(first[key], value) for key, value in in_memory(2).items())
