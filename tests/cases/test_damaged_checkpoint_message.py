"""One byte of a key in a checkpoint's data.pkl is changed: the message names the file and the remedy."""

from tests.support.helpers import lst_refuses
from tests.support.running import first_stage


def test_damaged_checkpoint_message(corpus, backbones, tmp_path, capsys):
    content = bytearray(first_stage(corpus, backbones).path().read_bytes())
    content[content.find(b"optimizer_history") + 3] = 0xFF
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    line = lst_refuses("translate", "--checkpoint", path, "--device", "cpu", corpus / "test.wav")
    assert capsys.readouterr().err == "" and line.startswith(f"error: {path}: damaged (its record ")
    assert "data.pkl" in line and "copy it again from where it is whole, or use an earlier one" in line
