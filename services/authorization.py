"""Who may call what. A method that has no rule here is refused, and a test fails for it."""

from __future__ import annotations

from collections.abc import Mapping

from services.identity import ROLES, Role

EVERYONE: frozenset[Role] = frozenset(ROLES)
NOBODY: frozenset[Role] = frozenset()


def _only(*roles: Role) -> frozenset[Role]:
    return frozenset(roles)


RULES: Mapping[str, frozenset[Role]] = {
    "/parley.Party/Describe": EVERYONE,
    "/parley.Party/ListDatasets": _only("coordinator"),
    "/parley.Party/Session": _only("coordinator"),
    "/parley.Party/Exchange": _only("party"),
    "/parley.Dealer/Describe": EVERYONE,
    "/parley.Dealer/Session": _only("coordinator"),
    "/parley.Dealer/Deal": _only("party"),
    "/parley.Coordinator/Describe": EVERYONE,
    # A party's operator sees which jobs there are, and takes part in one only through the party's own node.
    "/parley.Coordinator/SubmitJob": _only("submitter"),
    "/parley.Coordinator/ListJobs": _only("submitter", "party"),
    "/parley.Coordinator/GetJob": _only("submitter", "party"),
    "/parley.Coordinator/WatchJob": _only("submitter", "party"),
    "/parley.Coordinator/CancelJob": _only("submitter"),
    # A party takes the model or the metrics that a job reveals to it; all are sealed to their receiver.
    "/parley.Coordinator/GetResult": _only("submitter", "party"),
    "/parley.Coordinator/Session": _only("submitter"),
    "/parley.Coordinator/ListNodes": _only("submitter", "party"),
    "/parley.Coordinator/ListDatasets": _only("submitter"),
    "/grpc.health.v1.Health/Check": EVERYONE,
    "/grpc.health.v1.Health/List": NOBODY,
    # A watcher would hold a thread of the server for as long as it likes.
    "/grpc.health.v1.Health/Watch": NOBODY,
}


def allowed(method: str, role: Role) -> bool:
    """Whether callers of that role may call the method (`/package.Service/Method`)."""
    return role in RULES.get(method, NOBODY)
