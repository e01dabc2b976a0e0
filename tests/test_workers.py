"""Processes that tokenize: what they give, what they import, and how they end."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from pretrain_zoo.training import workers
from pretrain_zoo.training.encode import Batch, load_tokenizer
from pretrain_zoo.training.workers import encode_in_processes

NAMES = ("tokens", "offsets", "word_starts", "sentence_starts", "languages")


@pytest.fixture(scope="module")
def specification() -> str:
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "the": 1, "cat": 2, "sat": 3, "고양이": 4}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["?"])
    return tokenizer.to_str()


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    found = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            found.append(self)

    monkeypatch.setattr(workers.subprocess, "Popen", Recorded)
    yield found
    assert found and all(process.returncode is not None for process in found)  # ended, and waited for
    assert all(process.stdin.closed and process.stdout.closed for process in found)


def test_documents_come_in_order_and_whole(specification, started):
    texts = [['the "cat"\nsat', "고양이 \u2028 \x85 sat."], [], ["? \\n cat"], ["the cat. " * 10_000]]
    batches = [Batch(texts[i % 4], ("en", "ko")[i % 2], (None, 0, 1)[i % 3]) for i in range(24)]
    documents = list(encode_in_processes(iter(batches), specification, 3))
    tokenizer = load_tokenizer(specification)
    assert len(documents) == len(batches) and len(started) == 3
    for got, batch in zip(documents, batches):
        expected = batch.encode(tokenizer)
        for name in NAMES:
            ours, theirs = getattr(got, name), getattr(expected, name)
            assert (ours is None) == (theirs is None), name
            assert ours is None or (ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist()), name


def test_only_a_few_batches_are_read_ahead(specification, started):
    read = []
    batches = (read.append(i) or Batch(["the cat"], "en") for i in range(100))
    documents = encode_in_processes(batches, specification, 2)
    for taken in range(1, 6):
        next(documents)
        assert len(read) == taken + 2 * workers.AHEAD
    documents.close()


def test_processes_import_no_torch():
    """Which would take longer than to tokenize millions of characters."""
    command = [sys.executable, "-X", "importtime", "-m", workers.__name__]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"numpy", "tokenizers", "pretrain_zoo.training.encode"} <= imported
    assert not imported & {"torch", "transformers", "datasets", "pandas", "pyarrow", "pretrain_zoo.objectives.base"}
    assert done.stdout == ""


def test_the_main_module_and_odd_files_are_left_alone(specification, started, tmp_path, monkeypatch):
    """Started from a notebook or a script without guard, in a folder whose files are named as libraries are."""
    (tmp_path / "json.py").write_text("raise RuntimeError('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "json.py"), raising=False)
    (documents,) = encode_in_processes([Batch(["the cat"], "en")], specification, 1)
    assert documents.tokens.tolist() == [1, 2, -1]


@pytest.mark.parametrize("kind, says", [("KILL", "was ended by SIGKILL, as when memory runs out"), ("", "status 1")])
def test_a_process_that_dies_is_reported(specification, started, kind, says):
    def batches():
        for number in range(40):
            if number == 20 and kind:
                started[0].send_signal(getattr(signal, f"SIG{kind}"))
            yield Batch(["the cat"] if kind or number < 20 else [None], "en")  # None is no text

    with pytest.raises(ChildProcessError, match=f"a process that tokenizes .*{says}.*preprocessing_num_workers 1"):
        list(encode_in_processes(batches(), specification, 2))


def test_an_interruption_ends_the_processes(specification, started):
    def batches():
        yield from [Batch(["the cat " * 100_000], "en")] * 6
        assert all(os.getpgid(process.pid) == process.pid for process in started)  # Ctrl-C is not for them
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(encode_in_processes(batches(), specification, 2))
    assert {process.returncode for process in started} == {-signal.SIGKILL}  # at once, whatever there was to do


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_process_outlives_the_one_that_started_it(specification):
    def work():
        batches = (Batch(["the cat sat " * 5000], "en") for _ in iter(int, 1))
        for number, _ in enumerate(encode_in_processes(batches, specification, 2)):
            if number == 4:
                os.kill(os.getpid(), signal.SIGSTOP)

    main = get_context("fork").Process(target=work)
    main.start()
    try:
        stat = Path(f"/proc/{main.pid}/stat")
        wait_for(lambda: stat.read_text().split()[2] == "T")
        children = [
            int(pid) for path in Path(f"/proc/{main.pid}/task").glob("*/children") for pid in path.read_text().split()
        ]
        assert len(children) == 2
    finally:
        main.kill()
        main.join()
    wait_for(lambda: not any(alive(pid) for pid in children))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
