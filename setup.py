"""Packaging of lst-fairseq: the plugin, its command and what they need."""

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"

# fairseq is deliberately not among the requirements: the metadata of `fairseq-fixed` asks for torchaudio, which fails
# to import beside a CPU build of torch and then takes transformers' Llama down with it. Upstream's `fairseq` does not
# even import on Python 3.11. scripts/setup.sh installs fairseq without its dependencies; what it needs at run time is
# named below, or comes with transformers (packaging, regex). Any importable fairseq >= 0.12.2 is accepted.
#
# Of each range the lower end is tested by `scripts/test.sh --lowest`, the upper one by `scripts/test.sh` in a new
# environment, which gets the newest release below the next major one.
REQUIREMENTS = [
    "torch>=2.8,<3",  # 2.6 cannot write a sharded checkpoint by one process alone (no_dist)
    # Before 5.22 a Llama's byte-level tokenizer.json is rebuilt as another tokenizer, but for Python 3.10 there is
    # nothing newer than 5.20.
    'transformers>=5.22,<6; python_version >= "3.11"',
    'transformers>=5.20,<6; python_version < "3.11"',
    "safetensors>=0.8,<1",
    "peft>=0.19,<1",
    "accelerate>=1.10,<2",
    "sentencepiece>=0.2,<0.3",
    "protobuf>=5.26,<8",
    "numpy>=2,<3",
    "soundfile>=0.13,<0.15",
    "soxr>=0.4,<2",
    "sacrebleu>=2.4,<3",
    "jiwer>=3.1,<5",
    "PyYAML>=6.0.1,<7",
    "tqdm>=4.66,<5",
    "zlib-ng>=0.5.1,<2",  # CRC-32 six times as fast as zlib, by which checksums are compared without it
    # fairseq's:
    "omegaconf>=2.3,<2.4",
    "hydra-core>=1.3.2,<1.4",
    "bitarray>=2.9,<4",
    "scikit-learn>=1.5,<2",
]

EXTRAS = {
    "mini": ["espeakng-loader>=0.2.4,<0.3"],  # the speech of examples/mini
    "baseline": ["kaldi-native-fbank>=1.20,<2"],  # the features of examples/mustc/baseline.sh
    "dev": ["pytest>=8.2,<10", "pytest-xdist>=3.5,<4", "ruff>=0.14,<1", "build>=1.2.2,<2"],
}

#: The recipe, which `lst study` runs: shell files, which find each other by their places.
RECIPE = [
    ("share/lst-fairseq/examples/mustc", sorted(glob("examples/mustc/*", root_dir=HERE))),
    ("share/lst-fairseq/scripts", ["scripts/env.sh"]),
]

setup(
    name="lst-fairseq",
    version="0.1.0",
    description="LST, end-to-end speech translation with a large language model, as a fairseq plugin",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["lst_fairseq", "lst_fairseq.*"]),
    data_files=RECIPE,
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["lst=lst_fairseq.cli.main:main", "lst-translate=lst_fairseq.cli.main:lst_translate"]
    },
    classifiers=["Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Artificial Intelligence"],
)
