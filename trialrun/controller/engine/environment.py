"""What a process computes with, besides what its identity says: each of it may change bits."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

_CPU_INFO = Path("/proc/cpuinfo")
_MODES = {0: "off", 1: "warn", 2: "strict"}

# By these a library chooses other instructions or another precision; torch itself reads none.
_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """Facts of one process, recorded with each attempt and each checkpoint.

    Args:
        python: Major and minor version.
        numpy: Version.
        cpu: The processor's model, by which libraries choose their kernels.
        cpu_capability: The vector instructions that torch uses beside a GPU; without one, the
            identity has them as its device.
        onednn: Whether torch has oneDNN and uses it.
        cuda: The version of CUDA that torch was built with, on a GPU.
        cudnn: The version of cuDNN, on a GPU.
        float32_matmul_precision: As torch is set: ``highest`` uses no TF32.
        cudnn_tf32: Whether convolutions may use TF32, on a GPU.
        deterministic: How torch is set: ``strict``, ``warn`` or ``off``.
        variables: Variables that are set, by which libraries choose other kernels.
    """

    python: str
    numpy: str
    cpu: str
    cpu_capability: str | None
    onednn: bool
    cuda: str | None
    cudnn: int | None
    float32_matmul_precision: str
    cudnn_tf32: bool | None
    deterministic: str
    variables: dict[str, str]

    @classmethod
    def here(cls, device: torch.device) -> Environment:
        """Returns that of this process, once the trial is built, which may set some of it."""
        is_cuda = device.type == "cuda"
        return cls(
            python=".".join(platform.python_version_tuple()[:2]),
            numpy=np.__version__,
            cpu=_cpu_model(),
            cpu_capability=torch.backends.cpu.get_cpu_capability() if is_cuda else None,
            onednn=bool(torch.backends.mkldnn.enabled and torch._C._has_mkldnn),
            cuda=torch.version.cuda if is_cuda else None,
            cudnn=_cudnn_version() if is_cuda else None,
            float32_matmul_precision=torch.get_float32_matmul_precision(),
            cudnn_tf32=torch.backends.cudnn.allow_tf32 if is_cuda else None,
            deterministic=_MODES[torch.get_deterministic_debug_mode()],
            variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the facts as JSON data."""
        return dataclasses.asdict(self)

    def differences(self, recorded: Mapping[str, Any] | None) -> list[str]:
        """Compares with what an earlier attempt recorded.

        Args:
            recorded: What ``to_json`` returned there; None: an older version recorded nothing.

        Returns:
            A sentence for each difference; none for what the older version did not record.
        """
        return [
            f"{_NAMES[name]} was {recorded[name]!r} and is now {value!r}: the last digits may "
            "differ from a run without this change."
            for name, value in self.to_json().items()
            if recorded is not None and name in recorded and recorded[name] != value
        ]


_NAMES = {
    "python": "the version of Python",
    "numpy": "the version of numpy",
    "cpu": "the processor",
    "cpu_capability": "the processor's vector instructions",
    "onednn": "the use of oneDNN",
    "cuda": "the version of CUDA",
    "cudnn": "the version of cuDNN",
    "float32_matmul_precision": "the precision of float32 products",
    "cudnn_tf32": "the use of TF32 by cuDNN",
    "deterministic": "the deterministic mode",
    "variables": "what environment variables choose kernels",
}


def _cudnn_version() -> int | None:
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return version


def _cpu_model() -> str:
    """Returns the model of the processor, as the kernel tells it."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
