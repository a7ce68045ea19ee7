#!/usr/bin/env bash
# What a clinic does with a model, from training to an alarm, in a few minutes on two cores:
#
#     examples/clinic.sh PATH/pneumoniamnist.npz [FOLDER]
#
# Needs fedward[imaging,export,explain,serve] and tritonclient[grpc]. FOLDER (runs/clinic) is new.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
archive=$(realpath "${1:?"give the archive: $0 PATH/pneumoniamnist.npz"}")
folder=${2:-runs/clinic}
mkdir -p "$(dirname "$folder")"
mkdir "$folder" # an earlier one is not written over
cd "$folder"

say() { printf '\n== %s\n' "$*"; }
ask() { python "$here/clinic_ask.py" "$archive" "$@"; }
expect() { # 0: an alarm; 3: none; another code is an error
    local found=0
    ask alarms "http://$(address 'http://')" || found=$?
    [ "$found" -eq "$1" ] || {
        echo "$2 (exit code $found)" >&2
        exit 1
    }
}

say "the chest X-ray study, shortened, and asked for statistics and intervals"
sed -e 's/^rounds = .*/rounds = 10/' \
    -e 's/^shape = .*/&\nstatistics = { bins = 20, fewest = 10 }/' \
    "$here/chest-xray.toml" >study.toml
printf '\n[evaluation]\nreplicates = 100\n' >>study.toml

say "simulate"
fedward simulate study.toml --data "$archive" --no-baselines --out run

say "evaluate"
fedward evaluate run

say "report"
fedward report run

say "export"
fedward export run --to onnx --out chest.onnx

say "what the model was trained on, in sums over the hospitals"
fedward stats study.toml --data "$archive" --out table.json >/dev/null
fedward reference run --statistics table.json --out chest.reference.json

say "explain one image"
ask png image.png
fedward explain run image.png --out explanation.png

say "serve"
fedward serve chest.onnx --port 0 --grpc-port 0 --watch-state counts --watch-window 200 >service.log 2>service.err &
service=$!
trap 'kill "$service" 2>/dev/null || true' EXIT
address() { sed -n "s#.*$1\\([0-9.]*:[0-9]*\\).*#\\1#p" service.log | head -n 1; }
for _ in $(seq 600); do
    [ -z "$(address 'gRPC on ')" ] || break
    kill -0 "$service"
    sleep 0.2
done

say "ask, with images as in training"
ask grpc "$(address 'gRPC on ')"
expect 3 "an alarm where nothing changed, or nothing was compared"

say "ask, with images of a scanner that shows bones black"
ask grpc "$(address 'gRPC on ')" --drifted
expect 0 "no alarm where everything changed"
kill -TERM "$service"
wait "$service"
trap - EXIT

say "what the service saw"
fedward monitor counts
say "done: report, model, reference and explanation are in $folder"
