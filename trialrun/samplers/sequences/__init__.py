"""Index arithmetic: sequences of records and of batches, of which any window is a function.

Nothing here imports torch. The samplers of ``trialrun.samplers`` are torch's face of these classes:

    Count, Subset, Weighted, Mixed                where a chain of records begins
    Shuffled, Repeated, Dealt, Skipped            of records or of batches
    Batched                                       from records to batches
    LengthGrouped, Listed                         where a chain of batches begins

``describe`` and ``from_description`` put any chain of them on record, and make it again.
"""

from trialrun.samplers.sequences._batched import Batched
from trialrun.samplers.sequences._derived import Dealt, Repeated, Shuffled, Skipped
from trialrun.samplers.sequences._description import (
    Description,
    describe,
    from_description,
    is_complete,
    unknown,
)
from trialrun.samplers.sequences._length_groups import LengthGrouped
from trialrun.samplers.sequences._listed import Listed
from trialrun.samplers.sequences._mixed import Mixed
from trialrun.samplers.sequences._sequence import (
    ENDLESS,
    RECORDS_PER_BLOCK,
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
    "Description",
    "ENDLESS",
    "IndexSequence",
    "LengthGrouped",
    "Listed",
    "Mixed",
    "RECORDS_PER_BLOCK",
    "RecordSequence",
    "Records",
    "Repeated",
    "Shuffled",
    "Skipped",
    "Subset",
    "Weighted",
    "describe",
    "from_description",
    "is_complete",
    "unknown",
]
