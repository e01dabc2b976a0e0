"""Models over Hugging Face backbones: heads, couplings of two networks, backbone presets and checkpoint export."""
