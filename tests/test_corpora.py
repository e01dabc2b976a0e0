"""Corpora: what is read, in which order, and what is said about what cannot be."""

import json

import pytest
from transformers import HfArgumentParser

from pretrain_zoo.training import corpora as corpora_module
from pretrain_zoo.training import embedded
from pretrain_zoo.training.corpora import CorpusArguments, CorpusError, open_corpus
from pretrain_zoo.training.documents import load_documents
from pretrain_zoo.training.embedded import embedded_documents, prose, text_hash
from pretrain_zoo.training.sources import read_dataset


def write_json_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne é.\r\nStill one.\r\n \t\r\n\r\n\nTwo 中.\n\n  indented\nno break at the end".encode())
    expected = ["One é.\nStill one.", "Two 中.", "  indented\nno break at the end"]
    corpus = open_corpus(str(path))
    assert list(corpus) == expected
    assert list(corpus) == expected  # any number of times


def test_json_lines(tmp_path):
    rows = [{"text": "a\n\nb", "body": "x"}, {"text": None, "body": "y"}, {"text": " ", "body": "z"}]
    path = write_json_lines(tmp_path / "a.jsonl", rows)
    path.write_text(path.read_text() + "\n")
    assert list(open_corpus(str(path))) == ["a\n\nb"]
    assert list(open_corpus(str(path), text_column="body")) == ["x", "y", "z"]


def test_folders_and_patterns_are_read_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.txt", "a.txt", "b/z.txt"):
        (tmp_path / name).write_text(name)
    write_json_lines(tmp_path / "b" / "a.jsonl", [{"text": "b/a.jsonl"}])
    (tmp_path / "notes.md").write_text("left out")
    assert list(open_corpus(str(tmp_path))) == ["a.txt", "b/a.jsonl", "b/z.txt", "c.txt"]
    assert list(open_corpus(str(tmp_path / "*.txt"))) == ["a.txt", "c.txt"]
    assert list(open_corpus(str(tmp_path / "**" / "*.txt"))) == ["a.txt", "b/z.txt", "c.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xc3\xa9\n\ncaf\xe9 au lait\n", r"a\.txt, line 3: byte 7 \(0xe9\) is not valid UTF-8.*iconv"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', r"a\.jsonl, line 2: not valid JSON .* at column"),
        ("a.jsonl", b'{"text": "a"}\n\n["b"]\n', r"a\.jsonl, line 3: not a JSON object .*list"),
        (
            "a.jsonl",
            b'{"id": 1, "body": "a"}\n',
            r"line 1: there is no column 'text', only 'id', 'body'.*--text_column",
        ),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: column 'text' holds no text but int"),
        ("a.txt", b"\n \n\n", r"a\.txt' is empty.*text column"),
        ("a.doc", b"text\na\n", r"a\.doc: files ending in '\.doc' cannot be read; known formats: \.txt, \.jsonl"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        list(open_corpus(str(tmp_path / name)))


def test_nothing_there(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(CorpusError, match=r"No file matches .*\*\.txt"):
        open_corpus(str(tmp_path / "*.txt"))
    with pytest.raises(CorpusError, match="holds no file that can be read; known formats: .txt, .jsonl"):
        open_corpus(str(tmp_path))
    for missing in ("nowhere.txt", "./nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(CorpusError, match="There is no file or folder"):
            open_corpus(missing)


def test_dataset(tmp_path, monkeypatch):
    """A folder with splits as the Hub has them, and a builder by name."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cache = str(tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"id": i, "body": f"text {i}" if i % 2 else None} for i in range(2500)]
    write_json_lines(folder / "train.jsonl", rows)
    test = write_json_lines(folder / "test.jsonl", [{"id": 7, "body": "seven"}])

    def read(column, split="train", name=str(folder), **options):
        return list(read_dataset(name, column, dataset_split=split, cache_dir=cache, **options))

    assert [text for text in read("body") if text] == [f"text {i}" for i in range(1, 2500, 2)]
    assert read("body", "test") == ["seven"]
    assert read("body", name="json", data_files=str(test)) == ["seven"]
    assert len(read("body", "train[:10%]")) == 250
    assert read("body", streaming=True) == read("body")
    with pytest.raises(CorpusError, match=r"there is no column 'text', only 'id', 'body'"):
        read("text")
    with pytest.raises(CorpusError, match="row 0: column 'id' holds no text but int"):
        read("id")
    with pytest.raises(CorpusError, match=r"split 'dev'\) it cannot be loaded"):
        read("body", "dev")


def test_a_dataset_gives_what_its_file_gives(tmp_path, monkeypatch, texts, wordpiece_tokenizer):
    """Read from the file, as a dataset mapped or streamed, whole and in windows: the same cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    file = write_json_lines(tmp_path / "train.jsonl", [{"text": text} for text in [*texts, "", " ", texts[0]]])
    folder = tmp_path / "data"
    folder.mkdir()
    file.rename(folder / "train.jsonl")
    found = {}
    for name, streaming in (("file", False), ("mapped", False), ("streamed", True)):
        if name == "mapped":  # a local folder stands for a dataset of the Hub
            monkeypatch.setattr(corpora_module, "find_files", lambda pattern: None)
        for characters in (None, 1500):
            arguments = CorpusArguments(
                str(folder), streaming=streaming, window_characters=characters, cache_dir=str(tmp_path / name)
            )
            train, held_out = load_documents(arguments, wordpiece_tokenizer, seed=1)
            parts = [train.at(3), train.at(20), held_out]
            found[name, characters] = [(part.fingerprint, part.tokens.tolist()) for part in parts]
    for characters in (None, 1500):
        assert found["file", characters] == found["mapped", characters] == found["streamed", characters]
    assert found["file", None] != found["file", 1500]


def test_names_that_are_no_paths_are_datasets(monkeypatch):
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or 1 / 0)
    for name in ("wikitext", "Salesforce/wikitext"):
        with pytest.raises(ZeroDivisionError):
            list(open_corpus(name, dataset_config_name="wikitext-2-v1", dataset_split="test"))
    assert asked == [
        ((name, "wikitext-2-v1"), {"split": "test", "streaming": False}) for name in ("wikitext", "Salesforce/wikitext")
    ]


def test_arguments(tmp_path, capsys):
    (arguments,) = HfArgumentParser(CorpusArguments).parse_args_into_dataclasses([])
    assert (arguments.corpus, arguments.text_column, arguments.validation_fraction) == ("embedded", "text", 0.02)
    path = write_json_lines(tmp_path / "a.jsonl", [{"body": "a"}])
    command = ["--corpus", str(path), "--text_column", "body"]
    (arguments,) = HfArgumentParser(CorpusArguments).parse_args_into_dataclasses(command)
    assert list(arguments.open()) == ["a"]
    with pytest.raises(SystemExit):
        HfArgumentParser(CorpusArguments).parse_args_into_dataclasses(["--help"])
    assert "train[:10%]" in capsys.readouterr().out


DOCSTRING = """Return the *weighted* mean of ``values``, as :class:`~numpy.ndarray`
and :func:`numpy.mean` would.

Parameters
----------
values : array_like
    The numbers to be averaged, of any shape that
    the function can broadcast.
axis : int
    lower case, so no sentence of its own here.

* The first item of a list has words enough.
* The second item of it goes on over a hard
  line break and ends here.

For example, one may call the function thus::

    This is code, though it reads as prose does.
    So it is left out of the text.

Back in prose, see [Mean] and `the manual <https://example.org>`_ for more [1]_.

>>> mean([1, 2])
This output of a doctest looks like a sentence.

.. note::
    What a directive holds is left out as well as code.

| a | b | c | d | e | f |
x[i] = y[j] + z[k] * (w ** 2) / {a: b} <= c | d && e.
Too short to keep.
"""


def test_prose():
    assert prose(DOCSTRING) == [
        "Return the weighted mean of values, as numpy.ndarray and numpy.mean would.",
        "The numbers to be averaged, of any shape that the function can broadcast.",
        "The first item of a list has words enough.",
        "The second item of it goes on over a hard line break and ends here.",
        "For example, one may call the function thus:",
        "Back in prose, see Mean and the manual for more.",
    ]
    assert prose("") == []
    after_heading = "A paragraph right below its heading stands alone."
    assert prose(f"Some Words That Are\nA Heading\n=========\n{after_heading}") == [after_heading]


def test_documents_of_a_module(monkeypatch, tmp_path):
    sentence = "The {} does its work and says so in a sentence of good length, as documentation should. "
    (tmp_path / "module.py").write_text(
        f'"""{sentence.format("module") * 2}"""\n'
        f'def function():\n    """{sentence.format("function") * 2}"""\n    def inner():\n        "inner"\n'
        f'class Thing:\n    """{sentence.format("class") * 2}"""\n'
        f'    async def method(self):\n        """{sentence.format("method") * 2}"""\n'
        f'class Short:\n    """{sentence.format("short class")}"""\n'
        f'add_docstr(print, """\n{sentence.format("builtin") * 2}\n""")\n'
        f'class Copy:\n    """{sentence.format("class") * 2}"""\n    def f(self):\n        """{"Unlike it. " * 30}"""\n'
    )
    (tmp_path / "broken.py").write_text("def (:\n")
    files = embedded._python_files(tmp_path)
    assert [path.name for path in files] == ["broken.py", "module.py"]
    monkeypatch.setattr(embedded, "_sources", lambda: embedded._docstrings(embedded.ast.parse(files[1].read_bytes())))

    def twice(name):
        return (sentence.format(name) * 2).strip()

    assert embedded._extract() == [
        "\n".join(map(twice, ["module", "function", "builtin"])),
        "\n".join(map(twice, ["class", "method"])),
        ("Unlike it. " * 30).strip(),  # what another class said before is left out
    ]


def test_embedded_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "SOURCES", {"tokenizers": [""], "torch": ["optim"]})  # the whole takes ten seconds
    embedded_documents.cache_clear()
    documents = list(open_corpus(cache_dir=str(tmp_path)))
    assert sum(map(len, documents)) > 1_000_000
    assert len(documents) > 500
    text = "\n".join(documents)
    assert ">>>" not in text and "\n\n" not in text and "```" not in text
    assert min(map(len, documents)) >= embedded.MINIMUM_CHARACTERS
    assert max(len(p) for p in text.split("\n")) < 5000
    assert text_hash(documents) == text_hash(list(documents)) != text_hash(documents[1:])

    embedded_documents.cache_clear()
    assert [path.suffix for path in tmp_path.iterdir()] == [".txt"]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delattr(embedded, "_extract")  # the second time, it is read from the cache
            assert embedded_documents(str(tmp_path)) == documents
    finally:
        embedded_documents.cache_clear()
