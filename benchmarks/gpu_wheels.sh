#!/bin/sh
# The wheels that benchmarks/gpu.py and tests/gpu need beside torch, torchvision, accelerate, peft,
# timm, scikit-learn, pandas and pyarrow, for a GPU machine without a network (Python 3.12, Linux on
# x86-64). Where there is one:
#
#     sh benchmarks/gpu_wheels.sh gpu_wheels
#
# Take the checkout and that folder along. There:
#
#     sh benchmarks/gpu_wheels.sh gpu_wheels use /tmp/site
#     PYTHONPATH=/tmp/site:$PWD python3 -m pytest -m gpu tests/gpu
#     PYTHONPATH=/tmp/site:$PWD python3 benchmarks/gpu.py --output gpu_table
#
# Without bitsandbytes (40 MiB) the test of 4-bit weights is skipped; name it to take it along:
# sh benchmarks/gpu_wheels.sh gpu_wheels get bitsandbytes
set -eu
folder=${1:?give a folder for the wheels}
work=${2:-get}

case $work in
get)
    [ $# -le 2 ] && set -- "$folder" get
    shift 2
    python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder" \
        --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_24_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        transformers==5.24.0 pydicom==3.0.2 simplejpeg==1.9.0 datasets==5.2.0 dill==0.4.1 \
        multiprocess==0.70.19 liger-kernel==0.8.5 lightly==1.6.0 lightly-utils==0.0.2 "$@"
    du -sh "$folder"
    ;;
use)
    site=${3:?give the folder to install into}
    python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$site" "$folder"/*.whl
    # The checkout is used as it lies; its version is read from its metadata.
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
    mkdir -p "$site/llava_rad-$version.dist-info"
    printf 'Metadata-Version: 2.1\nName: llava-rad\nVersion: %s\n' "$version" \
        > "$site/llava_rad-$version.dist-info/METADATA"
    ;;
*)
    echo "error: $work is neither get nor use" >&2
    exit 2
    ;;
esac
