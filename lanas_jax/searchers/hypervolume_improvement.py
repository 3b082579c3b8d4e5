"""Expected improvement of the hypervolume by an untried code, of which each objective is normal and independent.

An exact objective, such as the number of parameters, is a normal distribution without deviation; it needs no model.

**Two objectives, closed form.** Sorted by the first objective, the front is a staircase: between two successive points
``lower < f1 <= upper``, the second objective already reaches `height`. A code of objectives ``(f1, f2)`` adds the area

    sum over strips of  min(max(f1 - lower, 0), upper - lower) * max(f2 - height, 0)

so with independent objectives and ``EI(f, t) = E[max(f - t, 0)]`` the expected improvement is

    sum over strips of  (EI(f1, lower) - EI(f1, upper)) * EI(f2, height)

**Three and four objectives, approximated.** The hypervolume is an integral over directions ``d`` of the positive unit
sphere (arXiv 2006.04655): ``c_k E_d[max over the front of s_d(f)^k]`` with ``s_d(f) = min_j max(f_j, 0) / d_j``. Its
expected improvement is an integral over the lengths that the front does not reach in a direction,

    c_k E_d[integral from b_d to infinity of  k t^(k - 1) prod_j P(f_j > t d_j) dt]

taken over a fixed set of directions by Gauss-Legendre quadrature.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lanas_jax.searchers.dominance import on_front
from lanas_jax.searchers.surrogate import log_expected_improvement

STRIPS = 64  # maximum number of points of the staircase of two objectives
DIRECTIONS = 64  # number of directions for three and four objectives; a power of two
LENGTHS = 8  # quadrature points per direction
FAR = 4.0  # deviations beyond the mean at which the quadrature ends


class Strips(NamedTuple):
    """Staircase of a front of two objectives, from low to high values of the first; `upper` ends with infinity."""

    lower: Float[Array, " s"]
    upper: Float[Array, " s"]
    height: Float[Array, " s"]


class Reach(NamedTuple):
    """Length that a front of three or four objectives reaches in each direction."""

    length: Float[Array, " d"]


Front = Strips | Reach


def front_of(points: Float[Array, "n k"], counted: Bool[Array, " n"]) -> Front:
    """Returns the front of the counted points in the form that improvements are computed from.

    Args:
      points: objectives minus their reference, in units of comparable size.
      counted: mask of the points.
    """
    k = points.shape[1]
    counted = counted & jnp.all(points > 0, axis=1)
    if k > 2:
        reached = jnp.min(points[:, None] / _directions(k)[None], axis=2)
        return Reach(jnp.max(jnp.where(counted[:, None], reached, 0.0), axis=0))
    front = on_front(points, counted)
    order = jnp.argsort(jnp.where(front, points[:, 0], jnp.inf))
    x, y = points[order].T
    count = jnp.sum(front)
    # All points of the front; of more than STRIPS, some, with the height of the highest point left out.
    steps = jnp.arange(STRIPS) * jnp.maximum(count - 1, 0) // (STRIPS - 1)
    before = jnp.concatenate([jnp.full(1, -1, steps.dtype), steps[:-1]])
    upper = jnp.where(count > 0, x[steps], 0.0)
    height = jnp.where(count > 0, y[jnp.minimum(before + 1, steps)], 0.0)
    lower = jnp.concatenate([jnp.zeros(1), upper])
    return Strips(lower, jnp.append(upper, jnp.inf), jnp.append(height, 0.0))


def improvement(front: Front, points: Float[Array, "n k"]) -> Float[Array, " n"]:
    """Returns the improvement of the hypervolume by each of some points, in the units of `front_of`."""
    if isinstance(front, Reach):
        k = points.shape[1]
        reached = jnp.min(jnp.maximum(points, 0.0)[:, None] / _directions(k)[None], axis=2)
        return _constant(k) * jnp.mean(jnp.maximum(reached**k - front.length[None] ** k, 0.0), axis=1)
    width = jnp.clip(points[:, :1] - front.lower[None], 0.0, (front.upper - front.lower)[None])
    return jnp.sum(width * jnp.maximum(points[:, 1:] - front.height[None], 0.0), axis=1)


def expected_improvement(front: Front, mean: Float[Array, "n k"], deviation: Float[Array, "n k"]) -> Float[Array, " n"]:
    """Returns the expected improvement of the hypervolume by each of some codes, in the units of `front_of`.

    Args:
      front: front of the trials.
      mean: means of the objectives minus their reference.
      deviation: standard deviations; 0 for exact objectives.
    """
    if isinstance(front, Reach):
        return _by_directions(front, mean, deviation)
    over, beyond = (_excess(mean[:, :1], deviation[:, :1], edge[None]) for edge in (front.lower, front.upper))
    height = _excess(mean[:, 1:], deviation[:, 1:], front.height[None])
    return jnp.sum(jnp.maximum(over - beyond, 0.0) * height, axis=1)


def _excess(mean: Float[Array, "n 1"], deviation: Float[Array, "n 1"], least: Float[Array, "1 s"]) -> Array:
    """Returns ``E[max(f - least, 0)]``."""
    exact = deviation <= 0
    bounded = jnp.minimum(least, jnp.finfo(jnp.float32).max / 4)
    log = log_expected_improvement(mean, jnp.where(exact, 1.0, deviation), bounded)
    excess = jnp.where(exact, jnp.maximum(mean - bounded, 0.0), jnp.exp(log))
    return jnp.where(jnp.isinf(least), 0.0, excess)


def _by_directions(reach: Reach, mean: Float[Array, "n k"], deviation: Float[Array, "n k"]) -> Float[Array, " n"]:
    k = mean.shape[1]
    directions = _directions(k)
    nodes, weights = np.polynomial.legendre.leggauss(LENGTHS)
    nodes, weights = (nodes + 1).astype(np.float32) / 2, weights.astype(np.float32) / 2
    spread = jnp.where(deviation > 0, deviation, jnp.finfo(jnp.float32).tiny)

    def along(carry: Array, d: tuple[Array, Array]) -> tuple[Array, None]:
        direction, start = d
        end = jnp.min((mean + FAR * deviation) / direction[None], axis=1)
        span = jnp.maximum(end - start, 0.0)
        total = jnp.zeros(mean.shape[0])
        for node, weight in zip(nodes, weights, strict=True):
            length = start + node * span
            level = length[:, None] * direction[None]
            above = jax.scipy.special.ndtr((mean - level) / spread)
            total = total + k * weight * length ** (k - 1) * jnp.prod(above, axis=1)
        return carry + span * total, None

    total = jax.lax.scan(along, jnp.zeros(mean.shape[0]), (jnp.asarray(directions), reach.length))[0]
    return _constant(k) * total / DIRECTIONS


@functools.cache
def _directions(k: int) -> Float[np.ndarray, "d k"]:
    """Returns evenly spread directions of the positive unit sphere: Sobol points, mapped to normal numbers."""
    from scipy import special
    from scipy.stats import qmc  # takes a second to import

    points = qmc.Sobol(k, scramble=False).random(DIRECTIONS) + 0.5 / DIRECTIONS
    drawn = special.ndtri(0.5 + 0.5 * points)
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def _constant(k: int) -> float:
    """Returns the volume of the positive part of the unit ball."""
    return math.pi ** (k / 2) / (2**k * math.gamma(k / 2 + 1))
