"""Drawing codes: from an explicit pool, or by Markov chains over the lattice of all codes.

A pool is exact: every unseen code of a region is available. If a space is too large to enumerate, many Markov chains
walk the lattice in parallel. They start from codes known to lie in the region and propose one-coordinate and block
moves, which are symmetric and independent of the state. A move is accepted only if `inside` holds for the proposed
code, so every half-space, validity rule and cost limit holds at every step. The stationary distribution of a chain is
uniform over the part of the region that is connected by moves.

`selection` decides which region to draw from; the searcher decides which of the drawn codes to try.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.searchers.sizes import listed_sizes, number_of_sizes, sizes
from lanas_jax.spaces.base import Codes, SearchSpace, valid_and_canonical
from lanas_jax.spaces.index import CodeIndex

BLOCK = 4  # maximum number of coordinates that one move redraws
DRAWS = 1 + 2 * BLOCK  # uniform numbers per move
CHAINS = 128  # chains from valid codes, used if rejection sampling does not find enough codes
MOVES = 256  # moves of each of these chains per round
ROUNDS = 16  # maximum number of rounds of these chains
LISTED = 2**16  # a space of at most this many codes is enumerated, so that draws are exact

Inside = Callable[[Int[Array, "n dims"]], Bool[Array, " n"]]
Score = Callable[[Int[Array, "n dims"]], Float[Array, " n"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """An explicit set of codes, with their features, embedding and a row index.

    Two pools of one space are equal if they hold the same codes in the same order, with the same embeddings.
    """

    codes: Int[Array, "m dims"]
    features: Float[Array, "m d"]
    embedded: Float[Array, "m e"]
    index: CodeIndex

    @classmethod
    @in_32_bits
    def of(cls, space: SearchSpace, codes: object) -> "Pool":
        """Returns a pool of the distinct valid codes, in canonical form and in order of first appearance.

        Raises:
          ValueError: if a code is out of range, or no code is valid.
        """
        checked = space.check(codes)
        valid, canonical = map(np.asarray, valid_and_canonical(space, checked))
        canonical = canonical[valid]
        if not len(canonical):
            raise ValueError("the pool holds no valid code")
        kept = canonical[~CodeIndex.of(space, canonical).repeated]
        features, embedded = _described(space, kept)
        return cls(jax.device_put(kept), features, embedded, CodeIndex.of(space, kept))

    @in_32_bits
    def with_functions_and_sizes(self, space: SearchSpace) -> "Pool":
        """Returns the pool with what else the space knows of its codes in their embeddings.

        Codes of one function (`SearchSpace.functions`) have one embedding, the mean of theirs. If the space has costs,
        two more columns are the logarithms of multiply-adds and parameters, with a mean of 0 and a variance of 1.
        """
        codes, own = np.asarray(self.codes), np.asarray(_described(space, self.codes)[1])
        embedded = np.concatenate([_averaged(space.functions(codes), own), listed_sizes(space, codes)], axis=1)
        return dataclasses.replace(self, embedded=jnp.asarray(embedded))

    @in_32_bits
    def without_functions_and_sizes(self, space: SearchSpace) -> "Pool":
        """Returns the pool with the space's own embeddings of its codes."""
        return dataclasses.replace(self, embedded=_described(space, self.codes)[1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pool):
            return False
        return np.array_equal(self.codes, other.codes) and np.array_equal(self.embedded, other.embedded)

    def __hash__(self) -> int:
        return hash(np.asarray(self.codes).tobytes())

    def find(self, space: SearchSpace, codes: Codes) -> Int[Array, " n"]:
        """Returns the row of each canonical code; -1 for codes that are not in the pool."""
        return self.index.find(space, codes)


def embed(space: SearchSpace, pool: Pool | Codes | None, codes: Codes, e: int) -> Float[Array, "n e"]:
    """Returns the embedding of canonical codes: that of the pool, or without a pool that of the space.

    Codes outside the pool have the space's embedding, and sizes of 0, the mean of the pool.

    Args:
      space: search space.
      pool: codes with their embeddings, if any.
      codes: canonical codes, valid or not.
      e: number of columns, as by `embedding_size`; without a pool, more than the space has are `sizes`.
    """
    embedded = space.embed(codes)
    missing = e - embedded.shape[1]
    if not isinstance(pool, Pool):
        return jnp.concatenate([embedded, sizes(space, codes)], axis=1) if missing else embedded
    rows = pool.find(space, codes)
    return jnp.where(rows[:, None] >= 0, pool.embedded[rows], jnp.pad(embedded, ((0, 0), (0, missing))))


def embedding_size(space: SearchSpace, pool: Pool | Codes | None) -> int:
    """Returns the number of columns of `embed` with all that is known: those of the space, then those of sizes."""
    return pool.embedded.shape[1] if isinstance(pool, Pool) else space.embedding_size + number_of_sizes(space)


def _averaged(functions: Int[np.ndarray, " n"] | None, embedded: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
    """Returns embeddings in which all codes of one function have the mean of theirs, so that they are one place."""
    if functions is None:
        return embedded
    _, which, counts = np.unique(functions, return_inverse=True, return_counts=True)
    totals = np.zeros((len(counts), embedded.shape[1]))
    np.add.at(totals, which, embedded)
    return (totals / counts[:, None])[which].astype(np.float32)


@jax.jit(static_argnums=0)
def _described(space: SearchSpace, codes: Codes) -> tuple[Float[Array, "n d"], Float[Array, "n e"]]:
    """Returns the features and embedding of codes."""
    return space.features(codes), space.embed(codes)


@in_32_bits
def listed(space: SearchSpace, pool: Pool | Codes | None) -> Pool | None:
    """Returns the given pool, or all codes of a small space, or None for a space that is sampled by chains.

    Raises:
      ValueError: `space` is not a `SearchSpace`, a code of the pool is out of range, or no code of the pool is valid.
    """
    if not isinstance(space, SearchSpace):
        raise ValueError(f"space must be a SearchSpace; got {space!r}")
    if isinstance(pool, Pool):
        return pool
    if pool is not None:
        return Pool.of(space, pool)
    return Pool.of(space, space.enumerate()) if space.size <= LISTED else None


def best_of(scores: Float[Array, " m"], allowed: Bool[Array, " m"]) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """Returns the index of the highest allowed score, and whether any score is allowed."""
    return jnp.argmax(jnp.where(allowed, scores, -jnp.inf)).astype(jnp.int32), jnp.any(allowed)


def best_per_bucket(
    scores: Float[Array, " m"], allowed: Bool[Array, " m"], buckets: int
) -> tuple[Int[Array, " buckets"], Bool[Array, " buckets"]]:
    """Returns the highest score in each of many disjoint buckets: nearly the highest scores overall, without sorting.

    Args:
      scores: scores of all codes.
      allowed: mask of the codes that may be chosen.
      buckets: number of buckets; a prime makes them independent of the enumeration order of codes.

    Returns:
      An index per bucket, and whether the bucket holds an allowed code.
    """
    rows = -(-scores.shape[0] // buckets)
    masked = jnp.where(allowed, scores, -jnp.inf)
    padded = jnp.pad(masked, (0, rows * buckets - scores.shape[0]), constant_values=-jnp.inf).reshape(rows, buckets)
    row = jnp.argmax(padded, axis=0).astype(jnp.int32)
    index = jnp.minimum(row * buckets + jnp.arange(buckets, dtype=jnp.int32), scores.shape[0] - 1)
    return index, jnp.max(padded, axis=0) > -jnp.inf


def neighbours(space: SearchSpace, codes: Int[Array, "n dims"]) -> Int[Array, "n moves dims"]:
    """Returns all codes that differ from each code in one choice, valid or not; ``moves = sum(cardinalities - 1)``."""
    options = space.cardinalities
    which = np.repeat(np.arange(space.dims), options - 1)
    shift = np.concatenate([np.arange(1, n) for n in options]).astype(np.int32)
    shifts = np.where(which[:, None] == np.arange(space.dims), shift[:, None], 0).astype(np.int32)
    return (codes[:, None] + shifts[None]) % options[None, None]


def propose(draws: Float[Array, "n k"], space: SearchSpace, codes: Int[Array, "n dims"]) -> Int[Array, "n dims"]:
    """Returns one symmetric move per chain: one coordinate redrawn, or, one time in four, two to `BLOCK` coordinates.

    Args:
      draws: `DRAWS` uniform numbers in [0, 1) per chain.
      space: search space.
      codes: current codes of the chains.
    """
    kind, which, value = draws[:, 0], draws[:, 1 : 1 + BLOCK], draws[:, 1 + BLOCK :]
    size = jnp.where(kind < 0.75, 1, 2 + jnp.floor((kind - 0.75) * 4 * (BLOCK - 1)).astype(jnp.int32))
    coordinate = jnp.minimum(jnp.floor(which * space.dims).astype(jnp.int32), space.dims - 1)
    options = space.cardinalities[None]
    for i in range(BLOCK):
        moved = (coordinate[:, i, None] == jnp.arange(space.dims)[None]) & (size[:, None] > i)
        drawn = jnp.minimum((value[:, i, None] * options.astype(np.float32)).astype(jnp.int32), options - 1)
        codes = jnp.where(moved, drawn, codes)
    return codes


def walk(
    key: PRNGKeyArray, space: SearchSpace, starts: Int[Array, "n dims"], inside: Inside, steps: int
) -> tuple[Int[Array, "n dims"], Float[Array, ""]]:
    """Runs uniform random walks inside a region.

    Args:
      key: PRNG key; consumed.
      space: search space.
      starts: first codes of the chains; a chain that starts outside enters once a move leads inside.
      inside: function that returns which codes are valid and belong to the region.
      steps: number of proposed moves per chain.

    Returns:
      The last codes of the chains, and the share of accepted moves.
    """
    return climb(key, space, starts, inside, lambda codes: jnp.zeros(codes.shape[0]), steps, climbs=0)


def climb(
    key: PRNGKeyArray,
    space: SearchSpace,
    starts: Int[Array, "n dims"],
    inside: Inside,
    score: Score,
    steps: int,
    climbs: int,
) -> tuple[Int[Array, "n dims"], Float[Array, ""]]:
    """Runs chains as in `walk`, then `climbs` hill-climbing moves, accepted only if the score does not decrease.

    `score` may be -inf for codes that must not be the result. The score of a chain is set to -inf when climbing
    starts, so its first move inside the region is always accepted.
    """
    n = starts.shape[0]

    def unscored(codes: Array) -> Array:
        return jnp.full(codes.shape[0], -jnp.inf)

    def step(carry: tuple[Array, Array], move: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        codes, scores = carry
        draws, climbing = move
        proposed = propose(draws, space, codes)
        new = jax.lax.cond(climbing, score, unscored, proposed) if climbs else scores
        accept = inside(proposed) & (new >= scores)
        codes, scores = jnp.where(accept[:, None], proposed, codes), jnp.where(accept, new, scores)
        return (codes, scores), jnp.mean(accept, dtype=jnp.float32)

    total = steps + climbs
    moves = (jax.random.uniform(key, (total, n, DRAWS)), jnp.arange(total) >= steps)
    (codes, _), rates = jax.lax.scan(step, (starts, unscored(starts)), moves)
    return codes, jnp.mean(rates)


def draw_valid(
    key: PRNGKeyArray, space: SearchSpace, unseen: Inside, n: int, batch: int = 256, tries: int = 64
) -> Int[Array, "n dims"]:
    """Draws uniform valid codes of the whole space; rows of -1 if not enough were found.

    Codes are drawn by rejection sampling. If `tries` batches do not give enough codes and the space has
    `starting_codes`, the rest are reached by chains from these. Such codes are less uniform: chains change the
    resolution or width of a network less often than single layers.

    Args:
      key: PRNG key; consumed.
      space: search space.
      unseen: function that returns which canonical codes may be drawn.
      n: number of distinct codes.
      batch: number of codes per batch.
      tries: maximum number of batches.
    """

    def body(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        key, drawn, count, attempt = carry
        key, subkey = jax.random.split(key)
        drawn, count = _added(space, unseen, drawn, count, space.random(subkey, batch))
        return key, drawn, count, attempt + 1

    start = (key, jnp.full((n, space.dims), -1, jnp.int32), jnp.int32(0), jnp.int32(0))
    key, drawn, count, _ = jax.lax.while_loop(lambda c: (c[2] < n) & (c[3] < tries), body, start)
    return _walked(key, space, unseen, drawn, count) if len(space.starting_codes()) else drawn


def _walked(
    key: PRNGKeyArray, space: SearchSpace, unseen: Inside, drawn: Int[Array, "n dims"], count: Int[Array, ""]
) -> Int[Array, "n dims"]:
    """Returns the drawn codes, filled up with codes that chains from `starting_codes` reach within `ROUNDS` rounds."""

    def body(carry: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array, Array]:
        key, drawn, count, places, attempt = carry
        key, subkey = jax.random.split(key)
        places, _ = walk(subkey, space, places, space.valid, MOVES)
        drawn, count = _added(space, unseen, drawn, count, places)
        return key, drawn, count, places, attempt + 1

    start = (key, drawn, count, _starts(space, CHAINS), jnp.int32(0))
    return jax.lax.while_loop(lambda c: (c[2] < drawn.shape[0]) & (c[4] < ROUNDS), body, start)[1]


def _added(
    space: SearchSpace, unseen: Inside, drawn: Int[Array, "n dims"], count: Int[Array, ""], raw: Int[Array, "m dims"]
) -> tuple[Int[Array, "n dims"], Int[Array, ""]]:
    """Adds the valid, unseen and new codes of `raw` to the drawn codes, as long as there is room."""
    codes, n = space.canonical(raw), drawn.shape[0]
    twin = jnp.all(codes[:, None] == codes[None], axis=2) & jnp.tri(codes.shape[0], k=-1, dtype=bool)
    old = jnp.any(jnp.all(codes[:, None] == drawn[None], axis=2), axis=1)
    fresh = space.valid(raw) & unseen(codes) & ~old & ~jnp.any(twin, axis=1)
    rows = jnp.where(fresh, count + jnp.cumsum(fresh) - 1, n)
    return drawn.at[rows].set(codes, mode="drop"), count + jnp.sum(fresh)


def reached(key: PRNGKeyArray, space: SearchSpace, n: int) -> Int[Array, "n dims"]:
    """Returns valid codes, possibly repeated: the last codes of chains from the `starting_codes` of a space."""
    return walk(key, space, _starts(space, n), space.valid, MOVES)[0]


def _starts(space: SearchSpace, chains: int) -> Int[Array, "chains dims"]:
    starts = space.starting_codes()
    return jnp.asarray(starts[np.arange(chains) % len(starts)])
