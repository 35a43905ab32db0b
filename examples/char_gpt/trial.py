"""A character-level GPT that learns to write Python from the source of Python's standard library.

The model is GPT-2's (Radford et al., 2019), small: blocks of causal attention and a two-layer
network, each after a normalization and added to what came in. T characters of context, C channels.

The text is that of the Python which trains, so another version of Python has another text. The
number of records, one for each place in the text, is part of a run's identity: a resume under a
Python whose library has another length is refused, and says both numbers.
"""

import math
import sys
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from trialrun import DataLoader, StepMode, Trial, TrialContext

VOCABULARY_SIZE = 128
"""ASCII, whatever characters the text happens to have, so that the model's shape is fixed."""
HELD_OUT_EVERY = 40
"""Every 40th file is for validation: whole files, since lines of one file resemble each other."""


class CharGPTTrial(Trial):
    """Next-character prediction with AdamW, warm-up, cosine decay and gradient clipping."""

    def __init__(self, context: TrialContext) -> None:
        self.context = context
        self.context_length = context.get_hparam("context_length")
        self.model = context.wrap_model(
            GPT(
                context_length=self.context_length,
                num_layers=context.get_hparam("num_layers"),
                num_heads=context.get_hparam("num_heads"),
                num_channels=context.get_hparam("num_channels"),
            )
        )
        self.optimizer = context.wrap_optimizer(
            torch.optim.AdamW(
                decay_groups(self.model, weight_decay=0.1),
                lr=context.get_hparam("lr"),
                betas=(0.9, 0.95),
            )
        )
        # A function makes the schedule: how long it is, is known when the data is there.
        context.wrap_lr_scheduler(
            lambda: torch.optim.lr_scheduler.LambdaLR(
                self.optimizer,
                warm_up_then_cosine(
                    context.get_hparam("warm_up_steps"), context.get_total_optimizer_steps()
                ),
            ),
            StepMode.STEP_EVERY_OPTIMIZER_STEP,
        )
        self.training_text, self.held_out_text = load_text()

    def build_training_data_loader(self) -> DataLoader:
        # Record i is what begins at character i: T + 1 characters, the last of which is a target
        # only. `unfold` makes a view, so the millions of overlapping records take no memory, and
        # since a tensor is a dataset, a batch of them is gathered in one go.
        records = self.training_text.unfold(0, size=self.context_length + 1, step=1)
        batch_size = self.context.get_per_slot_batch_size()
        return DataLoader(records, batch_size=batch_size, shuffle=True)

    def build_validation_data_loader(self) -> DataLoader:
        # Here every character is predicted once.
        step = self.context_length
        return DataLoader(self.held_out_text.unfold(0, size=step + 1, step=step), batch_size=64)

    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.loss(batch)
        self.context.backward(loss)
        self.context.step_optimizer(
            self.optimizer,
            clip_grads=lambda parameters: nn.utils.clip_grad_norm_(parameters, 1.0),
        )
        return {"loss": loss, "bits_per_character": loss / math.log(2)}

    def evaluate_batch(self, batch, batch_idx):
        loss = self.loss(batch)
        return {"loss": loss, "bits_per_character": loss / math.log(2)}

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        """Characters (B, T + 1), one byte each, to their mean cross-entropy in nats."""
        characters = batch.long()
        logits = self.model(characters[:, :-1])
        return cross_entropy(logits.flatten(0, 1), characters[:, 1:].flatten())


class GPT(nn.Module):
    """Characters (B, T) to logits (B, T, 128) of the characters that follow."""

    def __init__(
        self, *, context_length: int, num_layers: int, num_heads: int, num_channels: int
    ) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY_SIZE, num_channels)
        self.positions = nn.Embedding(context_length, num_channels)
        self.blocks = nn.Sequential(*(Block(num_channels, num_heads) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(num_channels)
        self.head = nn.Linear(num_channels, VOCABULARY_SIZE, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # What is added to the stream is scaled down by the number of additions.
                is_added = name.endswith("output.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * num_layers if is_added else 1))
        self.head.weight = self.characters.weight  # read and written by one table

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(characters.shape[1], device=characters.device)
        stream = self.characters(characters) + self.positions(positions)
        return self.head(self.norm(self.blocks(stream)))


class Block(nn.Module):
    """Attention and a two-layer network; both add to the stream (B, T, C)."""

    def __init__(self, num_channels: int, num_heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.LayerNorm(num_channels), CausalAttention(num_channels, num_heads)
        )
        self.network = nn.Sequential(nn.LayerNorm(num_channels), TwoLayers(num_channels))

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        stream = stream + self.attention(stream)
        return stream + self.network(stream)


class CausalAttention(nn.Module):
    """Each character looks back at itself and at those before it."""

    def __init__(self, num_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.input = nn.Linear(num_channels, 3 * num_channels, bias=False)
        self.output = nn.Linear(num_channels, num_channels, bias=False)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        # (B, T, 3 C) to queries, keys and values of (B, heads, T, C / heads).
        heads = self.input(stream).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(-2))


class TwoLayers(nn.Module):
    """A hidden layer four times as wide as the stream."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.input = nn.Linear(num_channels, 4 * num_channels)
        self.output = nn.Linear(4 * num_channels, num_channels)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        return self.output(nn.functional.gelu(self.input(stream)))


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; biases and the normalizations' gains, which are vectors, do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def warm_up_then_cosine(warm_up_steps: int, total_steps: int):
    """Returns the learning rate, as a share of the highest, by steps taken; at the end a tenth."""

    def share(step: int) -> float:
        if step < warm_up_steps:
            return (step + 1) / warm_up_steps
        progress = min(1.0, (step - warm_up_steps) / max(1, total_steps - warm_up_steps))
        return 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2

    return share


def load_text() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the training and the held-out text, one byte for each character.

    The files are the library's own top-level modules in the order of their names: no packages, so
    no tests, and nothing that was installed beside them. Of some 4.7 million characters the few
    that are not ASCII are left out.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    files = [folder / f"{name}.py" for name in sorted(sys.stdlib_module_names)]
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    if not texts:
        raise FileNotFoundError(
            f"{folder} has no source of Python's library; some builds leave it out."
        )
    held_out = texts[::HELD_OUT_EVERY]
    del texts[::HELD_OUT_EVERY]
    return as_characters(texts), as_characters(held_out)


def as_characters(texts: list[str]) -> torch.Tensor:
    """Returns the ASCII of the texts, one after the other, shape (characters,)."""
    ascii_text = "".join(texts).encode("ascii", errors="ignore")
    return torch.frombuffer(bytearray(ascii_text), dtype=torch.uint8)
