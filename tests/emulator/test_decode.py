"""One token further at a time, against a plain pass over the whole text."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from emulator.lm.batch import Prompts, read_prompts
from emulator.lm.decode import Decoder
from tests.emulator.lm_builders import plain_logits, random_model

pytestmark = pytest.mark.lm

PROMPTS = [[1, 2, 3, 4, 5], [6, 7]]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@torch.inference_mode()
def test_every_token_gets_the_logits_of_a_plain_pass_also_after_rows_were_dropped(kv_heads: int) -> None:
    model, prompts, owner = random_model(kv_heads=kv_heads), Prompts.pad(PROMPTS), torch.tensor([0, 0, 1, 1])
    decoder = Decoder(model, prompts, read_prompts(model, prompts)[0], owner, room=5)
    texts = [list(PROMPTS[i]) for i in owner]
    for tokens in ([10, 11, 12, 13], [20, 21, 22, 23], [30, 33], [40, 43], [50, 53]):
        if len(tokens) == 2 and len(texts) == 4:
            decoder.keep(torch.tensor([0, 3]))
            texts = [texts[0], texts[3]]
        logits = decoder(torch.tensor(tokens))
        for text, token, mine in zip(texts, tokens, logits, strict=True):
            text.append(token)
            torch.testing.assert_close(mine, plain_logits(model, text)[-1], atol=2e-5, rtol=1e-5)
