"""Packaging of lst-fairseq: the plugin, its console command and what they need."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"

# fairseq is deliberately not among the requirements: the metadata of `fairseq-fixed` asks for torchaudio, which fails
# to import beside a CPU build of torch and then takes transformers' Llama down with it. Upstream's `fairseq` does not
# even import on Python 3.11. scripts/setup.sh installs fairseq without its dependencies; what it needs at run time is
# named below (bitarray to scikit-learn). Any importable fairseq >= 0.12.2 is accepted.
REQUIREMENTS = [
    "torch>=2.6",
    "transformers>=5",
    "safetensors>=0.4",
    "peft>=0.17",
    "accelerate>=1",
    "sentencepiece>=0.2",
    "protobuf>=4",
    "numpy>=1.24",
    "soundfile>=0.12.1",
    "soxr>=0.3",
    "sacrebleu>=2.4",
    "jiwer>=3",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
    "PyYAML>=6",
    "tqdm>=4.60",
    "zlib-ng>=0.5",  # CRC-32 six times as fast as zlib; without it, checksums are compared by zlib
    "bitarray",
    "cffi",
    "cython",
    "packaging",
    "regex",
    "scikit-learn",
]

EXTRAS = {
    "mini": ["espeakng-loader>=0.2.4"],  # the speech of examples/mini
    "baseline": ["kaldi-native-fbank>=1.20"],  # the features of examples/mustc/baseline.sh
    "dev": ["pytest>=8", "pytest-xdist>=3.5", "ruff>=0.8", "editdistance>=0.6"],
}

setup(
    name="lst-fairseq",
    version="0.1.0",
    description="LST, end-to-end speech translation with a large language model, as a fairseq plugin",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["lst_fairseq", "lst_fairseq.*"]),
    package_data={"lst_fairseq": ["py.typed", "**/*.yaml", "**/*.json"]},
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["lst-translate=lst_fairseq.cli:main"]},
    classifiers=["Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Artificial Intelligence"],
)
