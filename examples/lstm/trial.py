"""An LSTM that reads a character's Unicode name, letter by letter, and says of what kind it is.

"GREEK SMALL LETTER ALPHA" is a lowercase letter (Ll), "SUBSET OF" a mathematical symbol (Sm). The
names have 3 to 83 letters; nothing is padded: batches are of names of like length, and packed.

The data is Unicode 3.2, which Python carries in every version beside its current one, so that it
is the same everywhere: 12,886 names of 26 kinds.
"""

import sys
from unicodedata import ucd_3_2_0

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from trialrun import DataLoader, Trial, TrialContext
from trialrun.samplers import LengthGroupedBatchSampler

ALPHABET = " -0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
KINDS = "Cf Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp Zs".split()
SPLIT_SEED = 20
VALIDATION_SHARE = 0.2


class NamesTrial(Trial):
    """A bidirectional LSTM and a linear layer, trained by Adam."""

    def __init__(self, context: TrialContext) -> None:
        self.context = context
        self.model = context.wrap_model(NameReader(context.get_hparam("hidden_size")))
        self.optimizer = context.wrap_optimizer(
            torch.optim.Adam(self.model.parameters(), lr=context.get_hparam("lr"))
        )
        self.training_names, self.validation_names = load_names()

    def build_training_data_loader(self) -> DataLoader:
        # An LSTM takes a step for each letter of the longest name in a batch, however few names
        # are left by then; names of like length share their steps. The sampler makes whole
        # batches, each for one slot.
        batch_sampler = LengthGroupedBatchSampler(
            [len(letters) for letters, _ in self.training_names],
            self.context.get_per_slot_batch_size(),
            seed=self.context.get_trial_seed(),
            drop_last=True,
        )
        return DataLoader(self.training_names, batch_sampler=batch_sampler, collate_fn=pack)

    def build_validation_data_loader(self) -> DataLoader:
        return DataLoader(self.validation_names, batch_size=256, collate_fn=pack)

    def train_batch(self, batch, epoch_idx, batch_idx):
        names, kinds = batch
        logits = self.model(names)
        loss = nn.functional.cross_entropy(logits, kinds)
        self.context.backward(loss)
        self.context.step_optimizer(
            self.optimizer,
            clip_grads=lambda parameters: nn.utils.clip_grad_norm_(parameters, 1.0),
        )
        return {"loss": loss, "accuracy": (logits.argmax(dim=1) == kinds).float().mean()}

    def evaluate_batch(self, batch, batch_idx):
        names, kinds = batch
        logits = self.model(names)
        return {
            "loss": nn.functional.cross_entropy(logits, kinds),
            "accuracy": (logits.argmax(dim=1) == kinds).float().mean(),
        }


class NameReader(nn.Module):
    """Packed names of B characters to logits (B, 26) of their kinds."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(ALPHABET), 32)
        self.lstm = nn.LSTM(32, hidden_size, bidirectional=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(2 * hidden_size, len(KINDS))

    def forward(self, names: PackedSequence) -> torch.Tensor:
        # A packed sequence is one row of numbers and a plan of what belongs to which name.
        _, (hidden, _) = self.lstm(names._replace(data=self.letters(names.data)))
        # What each direction knows after its last letter: (2, B, hidden) to (B, 2 hidden).
        return self.head(self.dropout(torch.cat([hidden[0], hidden[1]], dim=1)))


def pack(records: list[tuple[torch.Tensor, int]]) -> tuple[PackedSequence, torch.Tensor]:
    """Makes a batch of records in any order of lengths."""
    names, kinds = zip(*records, strict=True)
    return pack_sequence(names, enforce_sorted=False), torch.tensor(kinds)


def load_names() -> tuple[list, list]:
    """Returns training and validation records, split by a fixed seed whatever the trial's seed.

    A record is a name, as numbers of letters, and the number of its kind. Names that are made of
    a character's number or sound by a rule, as those of Chinese and Korean, are left out.
    """
    by_rule = ("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH", "HANGUL SYLLABLE")
    records = []
    for character in map(chr, range(sys.maxunicode + 1)):
        name = ucd_3_2_0.name(character, "")
        if name and not name.startswith(by_rule):
            letters = torch.tensor([ALPHABET.index(letter) for letter in name])
            records.append((letters, KINDS.index(ucd_3_2_0.category(character))))
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(SPLIT_SEED))
    shuffled = [records[i] for i in order.tolist()]
    num_validation = round(len(records) * VALIDATION_SHARE)
    # Validation goes through its records in order: by length, so that long names meet long names.
    validation = sorted(shuffled[:num_validation], key=lambda record: len(record[0]))
    return shuffled[num_validation:], validation
