"""Measure one workload on real processes over gRPC with mutual TLS, one thread each: `python -m benchmarks NAME`.

Seconds are the median over batches of repetitions of one execution, at the slowest party. Rounds and bytes are exact,
and are compared with what the plan's cost report said before. A batch is one command, as a training job sends them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

from benchmarks import workloads
from coordinator.local_cluster import LocalCluster
from parley.plan.cost import cost
from parley.remote import RemoteBackend
from parley.runtime.session import Statistics
from services.identity import Identity

TARGET_SECONDS = 1.0
"""A batch holds as many repetitions as fit about this time, at most MAXIMAL_REPETITIONS."""
MAXIMAL_REPETITIONS = 32


@dataclass(frozen=True)
class Measurement:
    """What one execution costs. Bytes and seconds are those of a party; of several parties, the largest."""

    name: str
    parties: int
    seconds: float
    fastest: float
    slowest: float
    rounds: int
    bytes_to_peers: int
    bytes_from_dealer: int
    seconds_waiting_for_peers: float
    seconds_waiting_for_dealer: float
    executions: int

    @property
    def seconds_computing(self) -> float:
        """The rest: arithmetic, packing, sending."""
        return self.seconds - self.seconds_waiting_for_peers - self.seconds_waiting_for_dealer


def measure(name: str, parties: int, batches: int) -> Measurement:
    """Start a cluster, run the workload, stop the cluster."""
    with tempfile.TemporaryDirectory(prefix="parley-benchmark-") as directory:
        cluster = LocalCluster(Path(directory))
        cluster.make(parties, _report)
        cluster.start(_report)
        try:
            identity = Identity.load(cluster.submitter_directory)
            backend = RemoteBackend(cluster.node("coordinator").address, identity)
            try:
                return _measure(name, backend, batches)
            finally:
                backend.close()
        finally:
            cluster.stop(_report)


def _measure(name: str, backend: RemoteBackend, batches: int) -> Measurement:
    workload = workloads.make(name, backend)
    expected = cost(workload.plan)

    def run(repetitions: int) -> list[Statistics]:
        before = backend.statistics
        arguments = list(islice(cycle(workload.arguments), repetitions))
        backend.execute(workload.plan, workload.loads, workload.stores, arguments, wait=True)
        return [_difference(new, old) for new, old in zip(backend.statistics, before, strict=True)]

    run(1)
    warm = max(item.seconds for item in run(1))
    repetitions = max(1, min(MAXIMAL_REPETITIONS, round(TARGET_SECONDS / warm)))
    taken = [run(repetitions) for _ in range(batches)]
    seconds = [max(item.seconds for item in batch) / repetitions for batch in taken]
    slowest = [max(batch, key=lambda item: item.seconds) for batch in taken]
    rounds = {item.rounds / repetitions for batch in taken for item in batch}
    peers = {max(item.bytes_to_peers for item in batch) / repetitions for batch in taken}
    dealt = {max(item.bytes_from_dealer for item in batch) / repetitions for batch in taken}
    if (
        rounds != {expected.rounds}
        or peers != {max(expected.bytes_to_peers)}
        or dealt != {max(expected.bytes_from_dealer)}
    ):
        raise AssertionError(f"counted {rounds} rounds, {peers} and {dealt} bytes; the plan's report says {expected}")
    return Measurement(
        name=name,
        parties=len(backend.parties),
        seconds=statistics.median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        rounds=expected.rounds,
        bytes_to_peers=max(expected.bytes_to_peers),
        bytes_from_dealer=max(expected.bytes_from_dealer),
        seconds_waiting_for_peers=statistics.median(item.seconds_waiting_for_peers / repetitions for item in slowest),
        seconds_waiting_for_dealer=statistics.median(item.seconds_waiting_for_dealer / repetitions for item in slowest),
        executions=repetitions * batches,
    )


def _difference(new: Statistics, old: Statistics) -> Statistics:
    return Statistics(**{key: value - asdict(old)[key] for key, value in asdict(new).items()})


def _report(text: str) -> None:
    print(text, file=sys.stderr)


HEAD = (
    f"{'name':14} {'parties':>7} {'ms':>9} {'min':>9} {'max':>9} {'rounds':>6} {'to peers':>12} {'from dealer':>12}"
    + (f" {'computing':>9} {'peers':>9} {'dealer':>9}")
)


def _row(result: Measurement) -> str:
    return (
        f"{result.name:14} {result.parties:7d} {result.seconds * 1e3:9.2f} {result.fastest * 1e3:9.2f} "
        f"{result.slowest * 1e3:9.2f} {result.rounds:6d} {result.bytes_to_peers:12,d} {result.bytes_from_dealer:12,d} "
        f"{result.seconds_computing * 1e3:9.2f} {result.seconds_waiting_for_peers * 1e3:9.2f} "
        f"{result.seconds_waiting_for_dealer * 1e3:9.2f}"
    )


def main() -> None:
    """Parse the command line and print one row, or one line of JSON, for every name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="+", metavar="NAME", choices=(*workloads.NAMES, "all"), help=", ".join(workloads.NAMES)
    )
    parser.add_argument("--parties", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--batches", type=int, default=7, help="batches of which the median is taken (default 7)")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each, instead of a table")
    options = parser.parse_args()
    names = workloads.NAMES if "all" in options.names else options.names
    if not options.json:
        print(HEAD)
    for name in names:
        result = measure(name, options.parties, options.batches)
        print(
            json.dumps({**asdict(result), "seconds_computing": result.seconds_computing})
            if options.json
            else _row(result)
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
