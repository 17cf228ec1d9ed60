"""Secret random values inside a plan (dropout, Bernoulli, initial weights, noise): the dealer samples and shares them.

Cost: no round, a correction of 8 bytes an element.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parley.plan.graph import Kind, Node, Type
from parley.protocols.base import (
    Array,
    Correlation,
    Party,
    Protocol,
    Types,
    Value,
    register,
    require,
    ring_correlation,
    shape_attribute,
)
from parley.ring import fixed
from parley.ring.prg import PrivateSource


@register
class Random(Protocol):
    """Attributes: `distribution` (bernoulli | uniform | normal), `parameters` (p | low, high | mean, standard
    deviation), `shape`, `scale`, `bound` (bits; normal samples are clipped to it)."""

    operation = "random"
    arity = 0

    def infer(self, node: Node, types: Types) -> Type:
        distribution, parameters = node.text("distribution"), node.reals("parameters")
        bound = node.integer("bound")
        require(distribution in ("bernoulli", "uniform", "normal"), f"unknown distribution {distribution!r}")
        require(len(parameters) == (1 if distribution == "bernoulli" else 2), "wrong number of parameters")
        require(all(np.isfinite(parameters)), "parameters must be finite")
        if distribution == "bernoulli":
            require(0 <= parameters[0] <= 1, "a probability lies between 0 and 1")
        if distribution == "uniform":
            require(parameters[0] <= parameters[1], "low must not exceed high")
        if distribution == "normal":
            require(parameters[1] >= 0, "a standard deviation is not negative")
        require(all(abs(parameter) < 2.0**62 for parameter in parameters), "parameters must be below 2^62")
        shape, scale = shape_attribute(node), node.integer("scale")
        require(1 <= bound <= 62, f"bound 2^{bound} is not in the ring")
        require(distribution != "bernoulli" or scale < bound, f"a one of scale {scale} is not below 2^{bound}")
        return Type(Kind.SHARED, shape, scale, bound)

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        return (ring_correlation(node.type.shape),)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        return shares[0]

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        generator, parameters, shape = source.generator(), node.reals("parameters"), node.type.shape
        match node.text("distribution"):
            case "bernoulli":
                sample = (generator.random(shape) < parameters[0]).astype(np.float64)
            case "uniform":
                sample = generator.uniform(parameters[0], parameters[1], size=shape)
            case _:
                sample = generator.normal(parameters[0], parameters[1], size=shape)
        limit = 2.0 ** (node.type.bound - node.type.scale)
        limit = min(limit - 2.0**-node.type.scale, np.nextafter(limit, 0))  # beyond 53 bits, the next double
        return None, (fixed.encode(np.clip(sample, -limit, limit), node.type.scale),)
