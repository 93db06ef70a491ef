#!/usr/bin/env bash
# Runs deaths.py or compare.py on a host with two GPUs and no network.
#
# Needs in $HOME: `site/` (vLLM and what it imports, for the host's python3), `o200k_base.tiktoken`, `model/`
# (gpt-oss-20b's config and tokenizer), and in `wheels/` this package (`pip wheel --no-deps .`) and what
# requirements.lock names, for the host's Python.
# compare.py also needs `redis/`: a redis-server with its libraries and its loader (ld-linux-x86-64.so.2).
# usage: run.sh deaths|compare OUT_FOLDER [options]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scenario=$1 out=$2
shift 2
if [ ! -e "$HOME/gatehouse/.complete" ]; then
  python3 -m venv --without-pip "$HOME/gatehouse"
  target=$("$HOME/gatehouse/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  for wheel in "$HOME"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$target"
  done
  for data in "$target"/*.data; do
    for part in purelib platlib; do
      if [ -d "$data/$part" ]; then cp -r "$data/$part/." "$target/"; fi
    done
  done
  touch "$HOME/gatehouse/.complete"
fi
config=$HOME/gatehouse.yaml
HOME_ESCAPED=${HOME//\//\\/}
sed "s/\${HOME}/$HOME_ESCAPED/g" "$here/gatehouse.yaml" > "$config"
options=(--config "$config" --out "$out")
if [ "$scenario" = compare ] && [ -d "$HOME/redis" ]; then
  options+=(--redis "$HOME/redis/ld-linux-x86-64.so.2 --library-path $HOME/redis $HOME/redis/redis-server")
fi
cd "$here/../.."
export PATH=$HOME/bin:$PATH
ulimit -n 65536 2> /dev/null || true # 1,536 streams are twice as many sockets of the gateway
exec "$HOME/gatehouse/bin/python" "bench/two_gpus/$scenario.py" "${options[@]}" "$@"
