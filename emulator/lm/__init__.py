"""The emulator's language model: a decoder of Llama architecture in plain torch, small enough to train on one core."""
