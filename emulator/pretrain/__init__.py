"""Where the shipped weights come from: tokenizer, text and training, all from code: `python -m emulator.pretrain`."""
