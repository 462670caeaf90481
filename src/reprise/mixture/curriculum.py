"""The order of the documents inside a bucket."""

import numpy as np

from reprise.errors import UserError
from reprise.mixture.apportion import exact
from reprise.recipe.mixture import Curriculum
from reprise.stable_random import permutation
from reprise.tokens.rows import DocumentSet, Order


class DocumentOrder:
    """Which documents of a bucket are read, and in which order in each epoch.

    The order depends on the perplexities or grades, on the ids (which order the store and break ties) and, if it is
    shuffled, on the seed: not on files, workers or the machine. `random` and `segments` are reshuffled in every epoch;
    the other orders are the same in each.
    """

    def __init__(self, documents: DocumentSet, curriculum: Curriculum, seed: int, name: str) -> None:
        """Cut the outliers.

        Args:
            documents: documents of the bucket.
            curriculum: order and cuts.
            seed: random seed of the run.
            name: path of the bucket, such as `zh/web`; gives each bucket its own shuffles.

        Raises:
            UserError: perplexities or grades are needed and there are none, or the cuts leave nothing.
        """
        self.kept: Order
        """Documents that are read, by perplexity or grade if it is needed."""
        self._curriculum, self._seed, self._name = curriculum, seed, name
        if not curriculum.is_ordered:
            self.kept = np.arange(len(documents), dtype=np.int64)
            self.num_unscored = self.num_cut = 0
            return
        keys = documents.grade if curriculum.by == "grade" else documents.ppl
        scored = np.flatnonzero(~np.isnan(keys))
        if not len(scored):
            what, command = ("grade", "label") if curriculum.by == "grade" else ("perplexity", "score")
            raise UserError(
                f"no document of {name} has a {what}, so it cannot be ordered",
                where=f"curriculum of {name}: order = {curriculum.order}",
                remedy=f"run `reprise {command}` with this recipe, or set the order to random",
            )
        ranked = scored[np.argsort(keys[scored], kind="stable")]
        below = int(exact(curriculum.drop_below) * len(scored))
        above = int((1 - exact(curriculum.drop_above)) * len(scored))
        kept = ranked[below : len(scored) - above]
        if not len(kept):
            raise UserError(
                f"the limits leave no document of {name}",
                where=f"curriculum of {name}: drop_below {curriculum.drop_below}, drop_above {curriculum.drop_above}",
                remedy="cut less",
            )
        unscored = np.flatnonzero(np.isnan(keys))
        if curriculum.order == "descending":
            kept = kept[::-1]
        self.kept = np.concatenate([kept, unscored])  # documents without a score are read last, not dropped
        self.num_unscored, self.num_cut = len(unscored), below + above

    def of_epoch(self, epoch: int) -> Order:
        """int64 [kept documents]: indices of the documents in the order of epoch `epoch` (from 0)."""
        order, ranked = self._curriculum.order, self.kept
        if order == "random":
            # Shuffled in the order of the ids, so that the scores do not matter.
            return self._shuffled(np.sort(ranked), epoch, 0)
        parts = min(self._curriculum.segments, len(ranked))
        if order == "segments":
            return np.concatenate(
                [self._shuffled(part, epoch, k) for k, part in enumerate(np.array_split(ranked, parts))]
            )
        if order == "cyclic":
            return np.concatenate([ranked[k::parts] for k in range(parts)])
        return ranked

    def _shuffled(self, documents: Order, epoch: int, part: int) -> Order:
        key = f"{self._seed}/{self._name}/{epoch}/{part}"
        return documents[permutation(key, len(documents))]
