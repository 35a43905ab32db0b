"""A GAN on scikit-learn's handwritten digits: two optimizers, and two steps in every batch."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from trialrun import DataLoader, MetricReducer, Trial, TrialContext

NOISE_SIZE = 32
NUM_PIXELS = 64
SPLIT_SEED = 20
VALIDATION_SHARE = 0.2


class GanTrial(Trial):
    """A generator makes images of noise, a discriminator tells them from real ones."""

    def __init__(self, context: TrialContext) -> None:
        self.context = context
        self.generator = context.wrap_model(build_generator())
        self.discriminator = context.wrap_model(build_discriminator())
        # Less momentum than Adam's usual 0.9: each network's goal moves with the other's weights.
        self.generator_optimizer = context.wrap_optimizer(
            torch.optim.Adam(
                self.generator.parameters(), lr=context.get_hparam("lr"), betas=(0.5, 0.999)
            )
        )
        self.discriminator_optimizer = context.wrap_optimizer(
            torch.optim.Adam(
                self.discriminator.parameters(), lr=context.get_hparam("lr"), betas=(0.5, 0.999)
            )
        )
        self.distance = context.wrap_reducer(
            FrechetDistance(), name="frechet_distance", for_training=False
        )
        self.training_images, self.validation_images = load_images()

    def build_training_data_loader(self) -> DataLoader:
        # A tensor is a dataset: its rows are the records, and a batch is gathered in one go.
        batch_size = self.context.get_per_slot_batch_size()
        return DataLoader(self.training_images, batch_size=batch_size, shuffle=True)

    def build_validation_data_loader(self) -> DataLoader:
        return DataLoader(self.validation_images, batch_size=90)

    def train_batch(self, batch, epoch_idx, batch_idx):
        # The noise belongs to the batch and the slot: it is the same after a resume.
        generated = self.generator(self.draw_noise(len(batch)))

        on_real = self.discriminator(batch)
        on_generated = self.discriminator(generated.detach())
        # The real images' target is 0.9, not 1, lest the discriminator become too sure of itself.
        discriminator_loss = loss(on_real, 0.9) + loss(on_generated, 0.0)
        self.context.backward(discriminator_loss)
        self.context.step_optimizer(self.discriminator_optimizer)

        # The generator's loss goes through the discriminator and must leave no gradients there.
        self.discriminator.requires_grad_(False)
        generator_loss = loss(self.discriminator(generated), 1.0)
        self.discriminator.requires_grad_(True)
        self.context.backward(generator_loss)
        self.context.step_optimizer(self.generator_optimizer)

        told_apart = torch.cat([on_real > 0, on_generated < 0]).float().mean()
        return {
            "discriminator_loss": discriminator_loss,
            "generator_loss": generator_loss,
            "discriminator_accuracy": told_apart,
        }

    def evaluate_batch(self, batch, batch_idx):
        generated = self.generator(self.draw_noise(len(batch)))
        self.distance.update(batch, generated)
        told_apart = torch.cat([self.discriminator(batch) > 0, self.discriminator(generated) < 0])
        return {"discriminator_accuracy": told_apart.float().mean()}

    def draw_noise(self, num_images: int) -> torch.Tensor:
        return torch.randn(num_images, NOISE_SIZE, device=self.context.device)


class FrechetDistance(MetricReducer):
    """How far apart the normal distributions fitted to real and to generated images are.

    |m - n|^2 + trace(C + D - 2 (CD)^(1/2)) for means m, n and covariances C, D of the pixels: the
    FID of Heusel et al. (2017) with pixels in place of a classifier's features. Each slot adds up
    its images' moments, which are few and of one size, whatever the number of images.
    """

    def __init__(self):
        self.reset()

    def reset(self):
        # Real and generated: the number of images, and the sums of pixels and of their products.
        self.counts = np.zeros(2)
        self.sums = np.zeros((2, NUM_PIXELS))
        self.products = np.zeros((2, NUM_PIXELS, NUM_PIXELS))

    def update(self, real, generated):
        for kind, images in enumerate([real, generated]):
            pixels = images.double().cpu().numpy()
            self.counts[kind] += len(pixels)
            self.sums[kind] += pixels.sum(axis=0)
            self.products[kind] += pixels.T @ pixels

    def per_slot_reduce(self):
        return self.counts, self.sums, self.products

    def cross_slot_reduce(self, per_slot_metrics):
        counts, sums, products = (sum(parts) for parts in zip(*per_slot_metrics, strict=True))
        means = sums / counts[:, None]
        covariances = products / counts[:, None, None] - means[:, :, None] * means[:, None, :]
        # The trace of a matrix's root is the sum of its eigenvalues' roots; rounding may leave
        # eigenvalues a little below zero.
        roots = np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(min=0) ** 0.5
        between_means = ((means[0] - means[1]) ** 2).sum()
        return between_means + np.trace(covariances.sum(axis=0)) - 2 * roots.sum()


def loss(logits: torch.Tensor, target: float) -> torch.Tensor:
    """Cross-entropy of logits (B, 1), all with one target: 1 for real, 0 for generated."""
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def build_generator() -> nn.Module:
    """Noise (B, 32) to images (B, 64), pixels from -1 to 1."""
    return nn.Sequential(
        nn.Linear(NOISE_SIZE, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, NUM_PIXELS),
        nn.Tanh(),
    )


def build_discriminator() -> nn.Module:
    """Images (B, 64) to logits (B, 1), positive for real ones."""
    return nn.Sequential(
        nn.Linear(NUM_PIXELS, 128),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.3),
        nn.Linear(128, 64),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.3),
        nn.Linear(64, 1),
    )


def load_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns training and validation images, split by a fixed seed whatever the trial's seed."""
    pixels = torch.tensor(load_digits().images, dtype=torch.float32)  # 0 to 16
    images = (pixels / 8 - 1).flatten(start_dim=1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    num_validation = round(len(images) * VALIDATION_SHARE)
    return images[order[num_validation:]], images[order[:num_validation]]
