"""The emulator's language model: a decoder of Llama architecture in plain torch, small enough to train on one core."""

import os

# Read when torch is loaded. Threads that wait for each other busily make a step a hundred times slower as soon as
# another process wants one of their cores; asleep they lose nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
