"""Where the shipped weights come from: tokenizer, text and training, all from code. Run `python -m emulator.pretrain`."""
