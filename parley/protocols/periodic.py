"""A trigonometric polynomial of a masked value, from its opening alone (protocols.md, section 7).

    g(x) = c + Σ_k a_k cos(2πkx/P) + b_k sin(2πkx/P),     P = 2^p,  k = 1 … K.
With θ = 2πm/(P·2^f) public and φ = 2πr/(P·2^f) known to the dealer, who shares cos kφ and sin kφ with `share_bits`
fractional bits,
    g(x) = c + Σ_k Re(w_k)·[cos kφ] + Im(w_k)·[sin kφ],     w_k = (a_k − i·b_k)·e^(ikθ).
Cost: no round besides the opening (of which the p+f low bits suffice); a correction of 16·K bytes an element. Error:
the fit's (parley/functions/fit.py) plus Σ(|a_k|+|b_k|)·2^−share_bits and K·2^−public_bits.
Sources: Fourier extensions, Huybrechs 2010; sines under masks, Zheng et al. 2023, SecFormer 2024.
"""

from __future__ import annotations

import math
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
    require_kind,
    ring_correlation,
)
from parley.ring import kernels
from parley.ring.prg import PrivateSource

MAXIMAL_TERMS = 64


@register
class Periodic(Protocol):
    """Attributes: `period_bits` p, `constants` (c), `cosines` a, `sines` b (K reals each), `share_bits`, `public_bits`.

    The result has scale share_bits + public_bits.
    """

    operation = "periodic"

    def infer(self, node: Node, types: Types) -> Type:
        value, cosines, sines = types[0], node.reals("cosines"), node.reals("sines")
        require_kind(value, Kind.MASKED)
        require(len(node.reals("constants")) == 1, "one constant is needed")
        require(1 <= len(cosines) == len(sines) <= MAXIMAL_TERMS, f"1 to {MAXIMAL_TERMS} cosines and as many sines")
        bits = node.integer("period_bits") + value.scale
        require(1 <= bits <= value.width, f"a period of {bits} bits does not fit an opening of {value.width} bits")
        require(bits <= 53, f"a period of {bits} bits is beyond double precision")
        share_bits, public_bits = node.integer("share_bits"), node.integer("public_bits")
        require(1 <= share_bits <= 40 and 1 <= public_bits <= 40, "precisions are 1 to 40 bits")
        size = abs(node.reals("constants")[0]) + sum(map(abs, cosines)) + sum(map(abs, sines))
        require(math.isfinite(size), "coefficients must be finite")
        scale = share_bits + public_bits
        return Type(Kind.SHARED, value.shape, scale, scale + max(math.ceil(math.log2(size + 1e-9)), 0) + 1)

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        return (ring_correlation((len(node.reals("sines")), *types[0].shape, 2)),)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        circle = _circle(inputs[0].public, node.integer("period_bits") + types[0].scale)
        weights = np.array(node.reals("cosines")) - 1j * np.array(node.reals("sines"))
        unit = 2.0 ** node.integer("public_bits")
        power = circle * unit
        result = np.zeros(types[0].shape, dtype=np.int64)
        for number, weight in enumerate(weights):
            factor = np.rint((power * weight).view(np.float64)).astype(np.int64).reshape(*types[0].shape, 2)
            factor *= shares[0][number]
            result += factor[..., 0]
            result += factor[..., 1]
            power *= circle
        if party.first:
            result += np.int64(
                round(node.reals("constants")[0] * 2.0 ** (node.integer("share_bits") + node.integer("public_bits")))
            )
        return result

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        circle = _circle(inputs[0], node.integer("period_bits") + types[0].scale)
        power = circle * 2.0 ** node.integer("share_bits")
        values = np.empty((len(node.reals("sines")), *types[0].shape, 2), dtype=np.int64)
        for number in range(values.shape[0]):
            values[number] = np.rint(power.view(np.float64)).astype(np.int64).reshape(*types[0].shape, 2)
            power *= circle
        return None, (values,)


def _circle(ring: Array, bits: int) -> Array:
    """e^(2πi·ring/2^bits), contiguous, with at least one axis."""
    angle = kernels.reduce(ring, bits).astype(np.float64) * (2 * math.pi / 2.0**bits)
    return np.atleast_1d(np.exp(1j * np.ascontiguousarray(angle)))
