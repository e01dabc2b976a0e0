"""Files of every format and compression: the same documents from each, and what is said of damaged ones."""

import bz2
import csv
import gzip
import io
import json
import lzma

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from pretrain_zoo.training import files as files_module
from pretrain_zoo.training import readers as readers_module
from pretrain_zoo.training.corpora import CorpusError, open_corpus
from pretrain_zoo.training.filters import Tally
from pretrain_zoo.training.survey import survey

LINES = ['One é, "quoted", and 中文.', "two", "x,y;z 🙂", "  spaces at both ends  ", "42", "l'été\u2028separator"]
DOCUMENTS = [*LINES, "A first paragraph.\nA second, of the same document."]


def zstd(data: bytes) -> bytes:
    codec = pyarrow.Codec("zstd")
    return codec.compress(data, asbytes=True)


COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def content(form: str, documents: list[str]) -> bytes:
    """The documents as a file of the format."""
    rows = [{"id": i, "text": text} for i, text in enumerate(documents)]
    if form == ".txt":
        return "\n\n\n".join(documents).encode()
    if form == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)).encode()
    if form == ".json":
        return json.dumps(rows, indent=1).encode()
    if form == ".csv":
        table = io.StringIO(newline="")
        csv.writer(table).writerows([["id", "text"], *([row["id"], row["text"]] for row in rows)])
        return ("\ufeff" + table.getvalue()).encode()
    if form == ".tsv":
        return "".join(f"{a}\t{b}\n" for a, b in [("id", "text"), *((r["id"], r["text"]) for r in rows)]).encode()
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink, row_group_size=3)
    return sink.getvalue()


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("form", [".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_the_same_documents_from_any_file(tmp_path, form, compression):
    if form == ".parquet" and compression:
        pytest.skip("compresses by itself")
    documents = LINES if form == ".tsv" else DOCUMENTS
    path = tmp_path / f"corpus{form}{compression}"
    path.write_bytes(COMPRESS[compression](content(form, documents)))
    corpus = open_corpus(str(path))
    assert list(corpus) == documents
    assert survey(corpus).digest == survey(documents).digest  # so that the cache is the same, too


def test_objects_line_by_line_in_a_json_file(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\n " + content(".jsonl", DOCUMENTS))
    assert list(open_corpus(str(tmp_path / "a.json"))) == DOCUMENTS


def test_long_json_arrays_are_read_piece_by_piece(tmp_path):
    documents = [f"{i} " + 'é\\"\u4e2d' * (i * i % 20_011) for i in range(60)]
    (tmp_path / "a.json").write_bytes(content(".json", documents))
    assert list(open_corpus(str(tmp_path / "a.json"))) == documents
    (tmp_path / "none.json").write_text(" [ ]\n")
    with pytest.raises(CorpusError, match="is empty"):
        list(open_corpus(str(tmp_path / "none.json")))


def test_tables_without_header(tmp_path):
    (tmp_path / "a.tsv").write_text('1\tsay "hi\n2\tto\textra\n')
    assert list(open_corpus(str(tmp_path / "a.tsv"), text_column="2")) == ['say "hi', "to"]
    (tmp_path / "a.csv").write_text('1,"a, b"\n2,"c\nd"\n')
    assert list(open_corpus(str(tmp_path / "a.csv"), text_column="2")) == ["a, b", "c\nd"]


def test_folders_of_mixed_formats(tmp_path):
    for number, form in enumerate((".txt.gz", ".csv.xz", ".parquet", ".json.zst")):
        compression = "." + form.rpartition(".")[2] if form != ".parquet" else ""
        data = content(form.removesuffix(compression) or form, [f"text {number}"])
        (tmp_path / f"{number}{form}").write_bytes(COMPRESS[compression](data))
    (tmp_path / "4.doc.gz").write_bytes(gzip.compress(b"left out"))
    assert list(open_corpus(str(tmp_path))) == [f"text {i}" for i in range(4)]


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_truncated_files(tmp_path, compression):
    path = tmp_path / f"a.jsonl{compression}"
    noise = "".join(map(chr, np.random.default_rng(0).integers(0x4E00, 0x9000, 200_000)))  # hard to compress
    rows = [json.dumps({"text": noise[i : i + 100]}).encode() + b"\n" for i in range(0, 200_000, 100)]
    whole = COMPRESS[compression](b"".join(rows))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        CorpusError, match=r"a\.jsonl\.\w+: damaged or cut off after line \d+.*anew.*--on_bad_rows skip"
    ):
        list(open_corpus(str(path)))
    path.write_bytes(whole[:-300])
    tally = Tally()
    texts = [row[0] for row in open_corpus(str(path), skip_bad_rows=True).rows(tally)]
    assert texts == [noise[i : i + 100] for i in range(0, 200_000, 100)][: len(texts)]
    assert tally.dropped == {"damaged file": 1} and tally.documents == len(texts) > 500


@pytest.mark.parametrize(
    ("name", "data", "message", "left", "reason"),
    [
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\xff"}\n{"text": "c"}\n',
            "line 2: byte 24.*UTF-8",
            ["a", "c"],
            "not UTF-8",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n{"text": "c"}\n', "line 2: not valid JSON", ["a", "c"], "not JSON"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"no": "b"}\n',
            "line 2: there is no column 'text', only 'no'",
            ["a"],
            "missing column",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2: half a surrogate", ["a"], "not Unicode"),
        ("a.jsonl", b'{"text": "a"}\n"b"\n', "line 2: not a JSON object.*str", ["a"], "no object"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": ["b"]}\n',
            "line 2: column 'text' holds no text but list",
            ["a"],
            "no text",
        ),
        ("a.json", b'[{"text": "a"}, {"text": "b"', r"item 2: not valid JSON or cut off", ["a"], "not JSON"),
        ("a.json", b'[{"text": "a"}, {"text": 3}, {"text": "c"}]', r"item 2: column 'text'", ["a", "c"], "no text"),
        ("a.csv", b'id,text\n1,"a"\n2,"b\n', "line 3: not valid CSV", ["a"], "not CSV"),
        ("a.csv", b"id,text\n1,a\n2\n3,c\n", "line 3: only 1 column, but column 2", ["a", "c"], "missing column"),
        ("a.tsv", b"id\ttext\n1\ta\n2\n3\tc\xc3\xa9\n", "line 3: only 1 column", ["a", "cé"], "missing column"),
        ("a.txt", b"a\n\nb\xe9\nb\n\nc\n", "line 3: byte 4", ["a", "b", "c"], "not UTF-8"),
        ("a.txt", b"a\n\n" + b"x" * 200 + b"\nb\n", "line 3: longer than 0 MiB", ["a", "b"], "line too long"),
        (
            "a.jsonl",
            b'{"text": "a"}\n' + b"x" * 500 + b'\n{"text": "b"}\n',
            "line 2: longer",
            ["a", "b"],
            "line too long",
        ),
        ("a.txt", b"a\n\n" + b"xy\n" * 100 + b"\nb\n", "line 53: a document of more", ["a", "b"], "document too long"),
    ],
)
def test_bad_rows_stop_or_are_counted(tmp_path, monkeypatch, name, data, message, left, reason):
    monkeypatch.setattr(files_module, "MAX_BYTES", 100)
    monkeypatch.setattr(readers_module, "MAX_BYTES", 100)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError, match=rf"{name[0]}\.{name[2:]}, {message}.*--on_bad_rows skip"):
        list(open_corpus(str(tmp_path / name)))
    tally = Tally()
    assert [row[0] for row in open_corpus(str(tmp_path / name), skip_bad_rows=True).rows(tally)] == left
    assert tally.dropped == {reason: 1}


def test_a_file_that_lacks_the_column(tmp_path):
    for form in (".csv", ".tsv", ".parquet"):
        (tmp_path / f"a{form}").write_bytes(content(form, LINES))
        with pytest.raises(
            CorpusError, match=rf"a\{form}: there is no column 'body', only 'id', 'text'.*--text_column"
        ):
            list(open_corpus(str(tmp_path / f"a{form}"), text_column="body"))
        with pytest.raises(CorpusError, match="is empty.*left out: 1 missing column"):
            list(open_corpus(str(tmp_path / f"a{form}"), text_column="body", skip_bad_rows=True))


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    whole = content(".parquet", LINES)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorpusError, match=r"a\.parquet: damaged or cut off after row 0"):
        list(open_corpus(str(path)))
    table = pyarrow.table({"text": pyarrow.array([b"a", b"\xff", b"c"]).view(pyarrow.string())})
    parquet.write_table(table, path)
    with pytest.raises(CorpusError, match=r"a\.parquet, row 2: not valid UTF-8"):
        list(open_corpus(str(path)))
    assert list(open_corpus(str(path), skip_bad_rows=True)) == ["a", "c"]


def test_empty_files(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("text\n")
    with pytest.raises(CorpusError, match=r"a\.txt: the file is empty. Remove it"):
        list(open_corpus(str(tmp_path)))
    tally = Tally()
    assert list(open_corpus(str(tmp_path), skip_bad_rows=True).rows(tally)) == [("text",)]
    assert tally.dropped == {"empty file": 1}
    for name in ("a.txt", "a.jsonl", "a.csv", "a.json"):
        (tmp_path / name).write_text("")
        with pytest.raises(CorpusError, match="is empty"):
            list(open_corpus(str(tmp_path / name)))
