"""Begin a larger model from a trained smaller one: deeper, wider, or both. Training goes on with `pretrain`.

    python -m pretrain_zoo.scripts.grow runs/bert-tiny-mlm --layers 0,1,0,1 --width 2 --output_dir runs/bert-grown
    python -m pretrain_zoo.scripts.pretrain --model_name_or_path runs/bert-grown --objective mlm

`--layers` names, for each layer of the new model, the layer it begins from, counted from 0. A wider model gives the
same outputs as before until it is trained. The result loads with `Auto…` classes.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from transformers import AutoTokenizer

from pretrain_zoo.models.compressed import load_compressed
from pretrain_zoo.models.grow import wider, with_layers
from pretrain_zoo.training.command_line import run_command


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="grow", description=str(__doc__).split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("checkpoint", help="folder of a trained model")
    parser.add_argument("--layers", help="layers the new model's begin from, counted from 0: 0,1,0,1")
    parser.add_argument("--width", type=int, default=1, help="factor of the width: 2, 3, …")
    parser.add_argument("--seed", type=int, default=0, help="of the shares that a wider model's weights take")
    parser.add_argument("--output_dir", required=True)
    options = parser.parse_args(argv)

    def work(console: Console) -> None:
        if not options.layers and options.width == 1:
            raise ValueError("nothing is to be done; give --layers, --width or both")
        model = load_compressed(options.checkpoint)
        before = model.num_parameters()
        if options.layers:
            model = with_layers(model, [int(part) for part in options.layers.split(",")])
        if options.width != 1:
            model = wider(model, options.width, options.seed)
        model.save_pretrained(options.output_dir)
        AutoTokenizer.from_pretrained(options.checkpoint, trust_remote_code=False).save_pretrained(options.output_dir)
        console.print(f"{before:,} → {model.num_parameters():,} parameters: {options.output_dir}")

    return run_command(work, resumes=None)


if __name__ == "__main__":
    sys.exit(main())
