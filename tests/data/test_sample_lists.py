"""Long list files, which stay on the disk, against the same lists in memory."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from paddleseg_segformer.data import sample_lists
from paddleseg_segformer.data.sample_lists import ListFile, SampleList, read_list_file
from paddleseg_segformer.errors import UserError

CONTENTS = {
    "plain": b"".join(b"i/%d.jpg l/%d.png\n" % (i, i) for i in range(300)),
    "no end": b"a.jpg b.png\nc.jpg d.png",
    "blank lines": b"\n\na.jpg b.png\n  \n\r\nc.jpg d.png\n\n \n" + 90 * b"\n",
    "windows": b"a.jpg b.png\r\n# note\r\n\r\nc.jpg d.png\r\n",
    "mark": b"\xef\xbb\xbfa.jpg b.png\nc.jpg d.png\n",
    "quotes": b'# x\n"a b.jpg" "c d.png"\na.jpg\tc d.png\n' + 9 * b"e.jpg f.png\n" + b"# end",
    "unicode": "ä.jpg ö.png\n漢.jpg 字.png\n".encode(),
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a list and read it as a long one, in blocks of a few bytes."""

    def write(content: bytes, is_long: bool = True) -> SampleList:
        monkeypatch.setattr(sample_lists, "LONG_BYTES", 0 if is_long else 1 << 40)
        monkeypatch.setattr(sample_lists, "BLOCK_BYTES", 40)
        path = tmp_path / "list.txt"
        path.write_bytes(content)
        return read_list_file(path, Path("root"), " ", needs_label=True)

    return write


@pytest.mark.parametrize("name", CONTENTS)
def test_long_list_equals_the_same_in_memory(write, name) -> None:
    short, long = write(CONTENTS[name], False), write(CONTENTS[name])
    assert isinstance(long._text, ListFile) and not isinstance(short._text, ListFile)
    assert [long[index] for index in range(len(long))] == [short[i] for i in range(len(short))]
    assert long.fingerprint() == short.fingerprint()
    again = pickle.loads(pickle.dumps(long))
    assert again[len(again) - 1] == short[len(short) - 1]


def test_lines_are_those_of_the_file(write) -> None:
    lines = CONTENTS["plain"].decode().split("\n")[:-1]
    samples = write(CONTENTS["plain"])
    for index in np.random.default_rng(0).permutation(300):
        image, label = lines[index].split(" ")
        assert samples[int(index)] == (f"root/{image}", f"root/{label}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            90 * b"a.jpg b.png\n" + b"a.jpg\n",
            "line 91: found 'a.jpg', expected one image",
        ),
        (90 * b"a.jpg b.png\n" + b"\xff b\n", "list.txt, line 91: not UTF-8"),
        (b"a b c\n" + 90 * b"a.jpg b.png\n", "list.txt, line 1: found 'a b c'"),
        (b"a.jpg b.png\rc.jpg d.png\r", r"lines end in \\r alone"),
        (b"# nothing\n\n   \n", "lists no samples"),
        (b"", "lists no samples"),
        (b"\xef\xbb\xbf", "lists no samples"),
    ],
)
def test_wrong_lines_of_long_lists_are_found_at_once(write, content, message) -> None:
    with pytest.raises(UserError, match=message):
        write(content)


def test_lists_of_other_encodings_are_read_into_memory(write) -> None:
    samples = write("ä.jpg b.png\n".encode("utf-16"))
    assert samples[0] == ("root/ä.jpg", "root/b.png")


def test_long_list_that_changes_is_refused(write, tmp_path) -> None:
    samples = write(CONTENTS["plain"])
    (tmp_path / "list.txt").write_bytes(b"other.jpg line.png\n" + CONTENTS["plain"])
    with pytest.raises(UserError, match="list.txt: the list has changed since the start"):
        samples[3]
    (tmp_path / "list.txt").unlink()
    with pytest.raises(UserError, match="list.txt: cannot be read"):
        samples[3]
