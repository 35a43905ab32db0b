"""A linear model whose slots hand each other values, by which they weigh their losses.

The hyperparameter ``way`` says which slots make which calls, and where; "all" is right.
"""

import numpy as np
import torch
from trials.linear import Linear

from trialrun import DataLoader


class Exchanging(Linear):
    def set_up(self):
        self.way = self.context.get_hparams().get("way", "all")
        distributed = self.distributed = self.context.distributed
        first = self.first = distributed.rank
        firsts = distributed.allgather(first)
        slots_each = firsts.count(0)
        assert firsts == [slot - slot % slots_each for slot in range(distributed.size)]
        assert distributed.gather_local(first) == (firsts if first == 0 else None)
        self.shift = distributed.broadcast(0.25 if first == 0 else object())

    def build_training_data_loader(self):
        assert self.distributed.gather("loader") == ["loader"] * self.distributed.size
        return super().build_training_data_loader()

    def build_validation_data_loader(self):
        if self.way == "set-up" and self.first != 0:
            self.distributed.broadcast_local()
        return super().build_validation_data_loader()

    def train_batch(self, batch, epoch_idx, batch_idx):
        distributed, slot = self.distributed, self.context.slot
        assert (distributed.rank, distributed.local_rank) == (slot, slot)
        if self.calls(slot, batch_idx):
            batch = self.exchange(batch, slot)
        return super().train_batch(batch, epoch_idx, batch_idx)

    def calls(self, slot, batch_idx):
        return self.way != "some" or slot != 1 or batch_idx != 2

    def exchange(self, batch, slot):
        inputs, targets = batch
        own = {"slot": slot, "sum": inputs.sum(), "places": np.arange(slot + 1), "pair": (slot, 1)}
        if self.way == "not plain" and slot == 1:
            own["made"] = DataLoader
        everyone = self.distributed.allgather(own)
        assert [value["slot"] for value in everyone] == list(range(self.distributed.size))
        assert [value["pair"] for value in everyone] == [(s, 1) for s in range(len(everyone))]
        assert [len(value["places"]) for value in everyone] == [s + 1 for s in range(len(everyone))]
        # Nobody else sees this.
        everyone[0]["places"][0] = 99
        everyone[0]["sum"] *= slot
        gathered = self.distributed.gather(everyone[-1]["sum"])
        assert (gathered is None) == (slot != 0)
        if gathered is not None:
            assert torch.equal(torch.stack(gathered), gathered[0].expand(len(gathered)))
            gathered[0] += 5
        noise = self.distributed.broadcast(torch.rand(2, dtype=torch.float64))
        return inputs * (1 + everyone[-1]["sum"] * 0.1) + noise.sum() + self.shift, targets

    def evaluate_batch(self, batch, batch_idx):
        if self.way == "evaluation":
            self.distributed.gather(1)
        return super().evaluate_batch(batch, batch_idx)
