"""One byte of a key in a checkpoint's data.pkl is changed: the message names the file and the remedy."""

from lst_fairseq.cli import translate
from tests.support.running import first_stage


def test_damaged_checkpoint_message(corpus, backbones, tmp_path, capsys):
    content = bytearray(first_stage(corpus, backbones).path().read_bytes())
    content[content.find(b"optimizer_history") + 3] = 0xFF
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    assert translate.main(["--checkpoint", str(path), "--device", "cpu", str(corpus / "test.wav")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lst-translate: {path}: damaged (its record ")
    assert "data.pkl" in line and "copy it again from where it is whole, or use an earlier one" in line
