"""Makes the shipped weights from nothing: `python -m emulator.pretrain --work DIR [--out emulator/weights]`.

One thread and about ten minutes. DIR keeps the model after each stage; a second start goes on after the last one.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer

from emulator.lm.chat import render
from emulator.lm.model import load_model, save_weights
from emulator.pretrain.card import write_card
from emulator.pretrain.tokenizer import CHAT_TEMPLATE, save_tokenizer, train_tokenizer
from emulator.pretrain.train import CONTEXT, HABITS, LEARN, new_model, save_config, texts, train

FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m emulator.pretrain", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the stages")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    learned, finished = options.work / "learned", options.work / "finished"
    if not (learned / "model.safetensors").exists():
        _learn(learned)
    _take_on_habits(learned, finished)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(finished / name, options.out / name)
    write_card(options.out, learned)


def _learn(folder: Path) -> None:
    folder.mkdir(parents=True)
    rng = random.Random("tokenizer")
    batches = texts(LEARN, rng)
    seen = [text for _ in range(40) for text in next(batches)]
    tokenizer = train_tokenizer(render(CHAT_TEMPLATE, text.messages) + text.completions[0] for text in seen)
    save_tokenizer(tokenizer, folder, context=CONTEXT)
    save_config(folder)
    model = new_model(seed=0)
    train(model, tokenizer, LEARN, seed=0, say=_say)
    save_weights(model, folder / "model.safetensors")


def _take_on_habits(learned: Path, folder: Path) -> None:
    shutil.copytree(learned, folder, dirs_exist_ok=True)
    model, tokenizer = load_model(learned), Tokenizer.from_file(str(learned / "tokenizer.json"))
    train(model, tokenizer, HABITS, seed=1, say=_say)
    save_weights(model, folder / "model.safetensors")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
