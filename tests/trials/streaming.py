"""A linear model on data that can only be streamed, through loaders that trialrun does not build.

Hyperparameters: ``loader`` (a key of the dictionary below), ``num_workers``, ``validation``.
"""

import torch
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from trials.linear import Linear, records

from trialrun import DataLoader as DescribedLoader


class Stream(IterableDataset):
    """One slot's shard of 14 records, read one after the other, with some noise."""

    def __init__(self, slot, num_slots):
        self.shard = range(slot, 14, num_slots)
        self.tensors = records(14).tensors

    def __iter__(self):
        for index in self.shard:
            yield self.read(index)

    def read(self, index):
        inputs, targets = (tensor[index] for tensor in self.tensors)
        return inputs + 0.01 * torch.randn(3, dtype=torch.float64), targets


class SizedStream(Stream):
    def __len__(self):
        return len(self.shard)


class StatefulStream(Stream):
    """Knows by itself how far it was read."""

    position = 0

    def __iter__(self):
        while self.position < len(self.shard):
            self.position += 1
            yield self.read(self.shard[self.position - 1])
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class Endless(Stream):
    def __iter__(self):
        while True:
            yield from super().__iter__()


class Map(torch.utils.data.Dataset):
    """The shard's records by number."""

    def __init__(self, slot, num_slots):
        self.stream = Stream(slot, num_slots)

    def __len__(self):
        return len(self.stream.shard)

    def __getitem__(self, place):
        return self.stream.read(self.stream.shard[place])


class Streaming(Linear):
    shared = DataLoader(Stream(0, 1))

    def set_up(self):
        if self.hparams.get("allowed", True):
            self.context.experimental.disable_dataset_reproducibility_checks()

    def build_training_data_loader(self):
        shard = (self.context.slot, self.context.num_slots)
        num_workers = self.hparams["num_workers"]
        return {
            "stateful": lambda: StatefulDataLoader(
                SizedStream(*shard), batch_size=2, num_workers=num_workers
            ),
            "shuffled": lambda: StatefulDataLoader(
                Map(*shard), batch_size=2, shuffle=True, num_workers=num_workers
            ),
            "dataset": lambda: DataLoader(StatefulStream(*shard), batch_size=2),
            "stateless": lambda: DataLoader(Stream(*shard), batch_size=2),
            "endless": lambda: DataLoader(Endless(*shard), batch_size=2),
            "empty": lambda: [],
            "once": lambda: iter([records(2).tensors]),
            "number": lambda: 3,
            "shared": lambda: self.shared,
            "mixed": lambda: [] if shard[0] == 0 else DescribedLoader(records(7)),
        }[self.hparams["loader"]]()

    def build_validation_data_loader(self):
        if self.hparams.get("validation") == "described":
            return DescribedLoader(records(7), batch_size=2)
        return DataLoader(Stream(0, 2), batch_size=3)
