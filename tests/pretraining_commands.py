"""A corpus in a small language, the arguments of a pretraining run of a second, and what a command that fails says."""

from pretrain_zoo.scripts.pretrain import main

ANIMALS, PLACES = ("cat", "dog", "bird", "horse", "cow"), ("mat", "hill", "road", "roof", "field")


def write_corpus(folder):
    """A text file of fifty documents in a small language."""
    lines = []
    for i in range(50):
        for j in range(6):
            animal, place = ANIMALS[(i + j) % 5], PLACES[(i + 2 * j) % 5]
            lines.append(f"The {animal} sat on the {place}. It saw the other animals, and the {animal} left.")
        lines.append("")
    path = folder / "corpus.txt"
    path.write_text("\n".join(lines))
    return path


def command_of(corpus, output_dir):
    """Arguments of a run of a second; its cache lies beside the corpus."""
    text = (
        f"--corpus {corpus} --cache_dir {corpus.parent / 'cache'} --output_dir {output_dir} --vocab_size 300 --use_cpu "
        "--max_seq_length 32 --per_device_train_batch_size 4 --max_steps 6 --logging_steps 2 --eval_steps 3 "
        "--save_steps 2 --save_total_limit 5 --validation_fraction 0.1"
    )
    return text.split()


def failure(capsys, arguments):
    """What a command that must fail says, checked to be one message without traceback."""
    assert main([str(a) for a in arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "Traceback" not in message
    return message
