from __future__ import annotations

import json
import math

from trialrun.controller.finite import with_words


def test_numbers_without_a_json_word_become_strings_however_deep() -> None:
    data = {"loss": math.nan, "deep": [{"up": math.inf}, (-math.inf, 1.5, 2, "text", None)]}
    words = with_words(data)
    assert words == {
        "loss": "NaN",
        "deep": [{"up": "Infinity"}, ["-Infinity", 1.5, 2, "text", None]],
    }
    json.dumps(words, allow_nan=False)


def test_float_reads_the_strings_back() -> None:
    assert math.isnan(float(with_words(math.nan)))
    assert float(with_words(math.inf)) == math.inf
    assert float(with_words(-math.inf)) == -math.inf
