"""Models over Hugging Face backbones: heads, couplings of two networks, backbone presets and checkpoint export."""

import logging

# Importing transformers' Trainer or peft imports bitsandbytes, which warns about a kernel that nothing here needs
# (`training`, `evaluation` and `scripts` import this package first for that).
logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)
