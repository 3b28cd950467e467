"""English speech from espeak-ng, driven through its C interface.

The library and its voices come from the PyPI package espeakng-loader: no system package is needed.

Three things to know about it. A voice variant that does not exist is accepted silently, hence the check against the
voices on disk here. Identical calls give slightly different audio, so a corpus is made once and kept. The library holds
global state: one `Synthesiser` a process.
"""

import ctypes
from functools import cache
from pathlib import Path

import espeakng_loader
import numpy as np
import soxr

SAMPLE_RATE = 16_000
#: Now and then the library hands over silence in place of a sentence, and speaks it when asked again.
TRIES = 3

# From espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@cache
def list_accents() -> tuple[str, ...]:
    """The English accents on disk: en (British), en-us, en-gb-scotland, ..."""
    names = {path.name.lower() for path in Path(espeakng_loader.get_data_path()).glob("lang/*/en*")}
    return tuple(sorted(names - {"en-shaw"}))  # en-shaw reads the Shavian alphabet


@cache
def list_variants() -> tuple[str, ...]:
    """The voice variants on disk (f1, m3, Andrea, ...), without those whose name cannot stand in a voice's name."""
    names = (path.name for path in Path(espeakng_loader.get_data_path()).glob("voices/!v/*"))
    return tuple(sorted(name for name in names if " " not in name))


def check_voice(voice: str) -> None:
    """Refuse a voice ("en-us" or "en-us+f2") whose accent or variant is not on disk."""
    accent, _, variant = voice.partition("+")
    if accent not in list_accents():
        raise ValueError(f"no accent {accent!r} (voice {voice!r}); there are: {', '.join(list_accents())}")
    if "+" in voice and variant not in list_variants():
        raise ValueError(f"no variant {variant!r} (voice {voice!r}); there are: {', '.join(list_variants())}")


class Synthesiser:
    """espeak-ng, loaded once a process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        self._native_rate = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, 0)
        if self._native_rate <= 0:
            raise RuntimeError(f"espeak-ng could not be initialised (code {self._native_rate})")
        self._pieces: list[np.ndarray] = []
        # Kept as an attribute: ctypes does not, and the library calls it long after this returns.
        self._callback = _SYNTH_CALLBACK(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)
        self._voice = ""

    def _collect(self, samples, count: int, _events) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, rate: int = 150, pitch: int = 50, pitch_range: int = 50) -> np.ndarray:
        """Speak one English sentence.

        voice        "ACCENT" or "ACCENT+VARIANT"
        rate         words a minute, 80 to 450
        pitch        0 to 99, 50 is the voice's own
        pitch_range  0 (monotonous) to 99, 50 is the voice's own

        Returns float32 [samples] in [-1, 1] at 16 kHz, cut close to the speech.
        """
        if voice != self._voice:
            check_voice(voice)
            if self._library.espeak_SetVoiceByName(voice.encode()):
                raise ValueError(f"espeak-ng refuses the voice {voice!r}")
            self._voice = voice
        # Every time, because setting a voice resets some of them.
        for parameter, value in ((_RATE, rate), (_VOLUME, 100), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, int(value), 0)
        for _ in range(TRIES):
            waveform = self._speak(text)
            if waveform.any():
                return _cut_silence(soxr.resample(waveform, self._native_rate, SAMPLE_RATE, quality="MQ"))
        raise RuntimeError(f"espeak-ng was silent {TRIES} times in the voice {voice!r}: {text!r}")

    def _speak(self, text: str) -> np.ndarray:
        """float32 [samples] at the library's own rate, with the voice and parameters that are set."""
        encoded = text.encode()
        self._pieces.clear()
        code = self._library.espeak_Synth(encoded, len(encoded) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        if code or not self._pieces:
            raise RuntimeError(f"espeak-ng said nothing (code {code}): {text!r}")
        return np.concatenate(self._pieces).astype(np.float32) / 32768


def _cut_silence(waveform: np.ndarray, threshold: float = 0.01, margin: int = 800) -> np.ndarray:
    """Leave at most 50 ms of silence on either side: espeak-ng appends some 300 ms."""
    loud = np.flatnonzero(np.abs(waveform) > threshold * np.abs(waveform).max())
    return waveform[max(0, loud[0] - margin) : loud[-1] + margin]
