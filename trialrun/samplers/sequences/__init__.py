"""Index arithmetic: sequences of records and of batches, of which any window is a function.

Nothing here imports torch. The samplers of ``trialrun.samplers`` are torch's face of these classes:

    Count, Subset, Weighted, Mixed                where a chain of records begins
    Shuffled, Repeated, Dealt, Skipped            of records or of batches
    Batched, LengthGrouped                        from records to batches
"""

from trialrun.samplers.sequences._batched import Batched
from trialrun.samplers.sequences._derived import Dealt, Repeated, Shuffled, Skipped
from trialrun.samplers.sequences._length_groups import LengthGrouped
from trialrun.samplers.sequences._mixed import Mixed
from trialrun.samplers.sequences._sequence import (
    ENDLESS,
    Batches,
    BatchSequence,
    DerivedSequence,
    IndexSequence,
    Records,
    RecordSequence,
)
from trialrun.samplers.sequences._sources import Count, Subset
from trialrun.samplers.sequences._weighted import Weighted

__all__ = [
    "BatchSequence",
    "Batched",
    "Batches",
    "Count",
    "Dealt",
    "DerivedSequence",
    "ENDLESS",
    "IndexSequence",
    "LengthGrouped",
    "Mixed",
    "RecordSequence",
    "Records",
    "Repeated",
    "Shuffled",
    "Skipped",
    "Subset",
    "Weighted",
]
