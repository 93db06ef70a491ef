#!/usr/bin/env bash
# The real vLLM on the CPU behind Gatehouse: installs it where it is missing, starts `gatehouse up`, and prints a login
# for the chat, a ready token and where everything is. Ctrl-C ends it and leaves nothing behind.
#
# usage: run.sh [options of `gatehouse up`, e.g. --port 8081]
#
#   MODEL           a model of the Hugging Face hub; default Qwen/Qwen2.5-0.5B-Instruct (1 GB). Where the hub does not
#                   give it, the tiny one is taken that is made here and only counts; MODEL=tiny asks for that
#   HUB_SECONDS     how long a download may take; default 900
#   GATEHOUSE_STATE_DIR   default ~/.local/state/gatehouse-cpu
#   GATEHOUSE_CACHE, GATEHOUSE_TORCH, PYTHON   see install.sh
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
own=$here/../../.venv/bin/gatehouse # of this checkout
gatehouse=$([ -x "$own" ] && echo "$own" || echo gatehouse)
wanted=${MODEL:-Qwen/Qwen2.5-0.5B-Instruct}
say() { echo "run.sh: $*" >&2; }

installed=$("$here/install.sh")
venv=$(sed -n 's/^vllm=//p' <<< "$installed")
tiny=$(sed -n 's/^model=//p' <<< "$installed")

if [ "$wanted" != tiny ]; then
  say "getting $wanted from the hub (a minute or two, the first time)"
  if ! timeout "${HUB_SECONDS:-900}" "$venv/bin/hf" download "$wanted" > /dev/null 2>&1; then
    say "the hub does not give it; taking the tiny model, which only counts"
    wanted=tiny
  fi
fi
if [ "$wanted" = tiny ]; then
  model=$tiny name=gpt-oss-20b
else
  model=$wanted name=${wanted##*/}
fi

unset GATEHOUSE_CACHE GATEHOUSE_TORCH # they are this folder's, and Gatehouse refuses a variable that it does not know
export GATEHOUSE_STATE_DIR=${GATEHOUSE_STATE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/gatehouse-cpu}
export GATEHOUSE_CONFIG=$here/gatehouse.yaml
export GATEHOUSE_ENGINE__COMMAND="[\"$venv/bin/vllm\"]"
export GATEHOUSE_ENGINE__ENV="{\"PYTHONPATH\": \"$here/shim\", \"HF_HUB_OFFLINE\": \"1\"}"
export GATEHOUSE_ENGINE__MODEL=$model
export GATEHOUSE_ENGINE__SERVED_MODEL_NAME=$name
export GATEHOUSE_LOGGING__FORMAT=${GATEHOUSE_LOGGING__FORMAT:-console}

password=$(head -c 12 /dev/urandom | base64 | tr '+/' '-_')
"$gatehouse" user add demo --password-stdin <<< "$password" > /dev/null 2>&1 ||
  "$gatehouse" user passwd demo --password-stdin <<< "$password" > /dev/null
token=$("$gatehouse" token issue --subject demo --ttl 1d 2> /dev/null)
cat << END
login     demo / $password
token     $token
model     $name
The engine takes half a minute to start; then the addresses follow.
END
exec "$gatehouse" up "$@"
