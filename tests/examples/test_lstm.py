"""The names are the same under every Python, and packing them changes nothing."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import pytest
import torch
from example_module import import_example
from torch.nn.utils.rnn import pack_sequence


@pytest.fixture
def lstm() -> ModuleType:
    return import_example("lstm")


def test_names_are_those_of_unicode_3_2(lstm: ModuleType) -> None:
    training, validation = lstm.load_names()
    names = {
        "".join(lstm.ALPHABET[i] for i in letters.tolist()): lstm.KINDS[kind]
        for letters, kind in training + validation
    }
    assert len(names) == len(training) + len(validation) == 12_886
    assert names["GREEK SMALL LETTER ALPHA"] == "Ll"
    assert names["SUBSET OF"] == "Sm"
    assert (min(map(len, names)), max(map(len, names))) == (3, 83)
    assert len(set(names.values())) == len(lstm.KINDS) == 26
    assert Counter(names.values()).most_common(1) == [("Lo", 5073)]


def test_name_is_read_alike_alone_and_among_longer_ones(lstm: ModuleType) -> None:
    names = [torch.randint(len(lstm.ALPHABET), (length,)) for length in (5, 30, 1, 12)]
    model = lstm.NameReader(hidden_size=6).eval()
    batch, kinds = lstm.pack([(name, i) for i, name in enumerate(names)])
    assert kinds.tolist() == [0, 1, 2, 3]
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(pack_sequence([name])) for name in names])
    torch.testing.assert_close(together, alone)
