"""Random choices that never change: NumPy may change its generators, but a resumed order must stay the same."""

import numpy as np
import numpy.typing as npt
import xxhash

UInt64s = npt.NDArray[np.uint64]


def noise(key: str, size: int) -> UInt64s:
    """uint64 [size]: SplitMix64 (Steele et al., OOPSLA 2014), seeded by the hash of `key`."""
    seed = np.uint64(xxhash.xxh3_64_intdigest(key.encode()))
    with np.errstate(over="ignore"):
        return mix(seed + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def mix(values: UInt64s) -> UInt64s:
    """Mix every bit into all others: the finaliser of SplitMix64."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def permutation(key: str, size: int) -> npt.NDArray[np.int64]:
    """int64 [size]: 0, 1, ..., size - 1 in a random order."""
    return np.argsort(noise(key, size), kind="stable").astype(np.int64, copy=False)


def resamples(key: str, size: int, draws: int) -> npt.NDArray[np.int64]:
    """int64 [draws, size]: how often each of `size` items occurs among `size` draws with replacement."""
    # The high 32 bits times the size, over 2^32: a uniform choice, off by less than size / 2^32.
    chosen = ((noise(key, draws * size) >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32)
    rows = np.repeat(np.arange(draws), size)
    counts = np.bincount(rows * size + chosen.astype(np.int64), minlength=draws * size)
    return counts.reshape(draws, size)
