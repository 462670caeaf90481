"""MinHash signatures and their bands."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reprise.documents.deduplicate.shingles import normalise_texts, split_shingle_words
from reprise.documents.words import mix
from reprise.recipe.documents import Deduplicate
from reprise.recipe.languages.codes import WITHOUT_SPACES

Signatures = NDArray[np.uint32]
"""uint32[documents, permutations]; all ones for a text without a word."""

NO_WORDS = 0xFFFFFFFF
_CANDIDATE_PROBABILITY = 0.99


def choose_bands(settings: Deduplicate) -> tuple[int, int]:
    """Number of bands, and hashes per band: the longest bands with which two documents at the threshold become
    candidates with probability 0.99. Documents of Jaccard similarity s share a band with probability 1 - (1 -
    s^rows)^bands.
    """
    if settings.bands:
        return settings.bands, settings.permutations // settings.bands
    for rows in range(settings.permutations, 0, -1):
        bands = settings.permutations // rows
        if 1 - (1 - settings.threshold**rows) ** bands >= _CANDIDATE_PROBABILITY:
            return bands, rows
    return settings.permutations, 1


def shingle_text(text: str, lang: str) -> str:
    """The text that MinHash uses: normalised words, or characters in languages without spaces, with single spaces."""
    return split_shingle_words(normalise_texts([text]), by_char=lang in WITHOUT_SPACES)[0]


def sign_texts(texts: Sequence[str], langs: Sequence[str], settings: Deduplicate) -> Signatures:
    """Signatures of texts, which are normalised first."""
    return sign_normal(normalise_texts(texts), langs, settings)


def sign_normal(normal: Sequence[str], langs: Sequence[str], settings: Deduplicate) -> Signatures:
    """Signatures of normalised texts."""
    import daft

    signatures = np.full((len(normal), settings.permutations), NO_WORDS, np.uint32)
    for by_char, size in ((True, settings.shingle_chars), (False, settings.shingle_words)):
        rows = [row for row, lang in enumerate(langs) if (lang in WITHOUT_SPACES) == by_char]
        if rows:
            shingled = split_shingle_words([normal[row] for row in rows], by_char=by_char)
            hashed = daft.Series.from_pylist(shingled).minhash(settings.permutations, size).to_arrow()
            signatures[rows] = np.asarray(hashed.flatten()).reshape(len(rows), settings.permutations)
    return signatures


def hash_bands(signatures: Signatures, bands: int, band_rows: int) -> NDArray[np.uint64]:
    """Hashes of the bands, uint64[documents, bands]; the index of the band is part of the hash."""
    parts = signatures[:, : bands * band_rows].reshape(len(signatures), bands, band_rows)
    hashes = np.broadcast_to(mix(np.arange(bands, dtype=np.uint64)), parts.shape[:2])
    for row in range(band_rows):
        hashes = mix(hashes * np.uint64(0x9E3779B97F4A7C15) + parts[:, :, row])
    return hashes


def estimate_similarity(one: Signatures, other: Signatures) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of pairs of signatures: the share of equal hashes, float64[pairs]."""
    return np.asarray((one == other).mean(axis=1))
