#!/bin/sh
# What needs a CUDA device: training, slimming by dojang's loop, by one's own loop and at once on `--device cuda`, held
# against the CPU; two processes if there are two devices. At most 8 minutes on one device; each part has a limit of its
# own, and one that fails does not stop the others. Run from the project's root: sh bench/gpu.sh [OUT], default
# out/gpu.txt. Exit 1 where a part failed, 2 where there is no device.
set -u
out=${1:-out/gpu.txt}
python=${PYTHON:-python}
PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
mkdir -p "$(dirname "$out")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "PyTorch sees no CUDA device here" >&2
    exit 2
fi

part() { # part NAME SECONDS COMMAND...
    name=$1 limit=$2
    shift 2
    began=$(date +%s)
    if timeout "$limit" "$@" >"$work/part.log" 2>&1; then said=passed; else said="FAILED ($?)" failed=1; fi
    {
        echo "== $name: $said, $(($(date +%s) - began)) s of at most $limit"
        tail -n 15 "$work/part.log"
    } | tee -a "$out"
}

: >"$out"
"$python" -c 'import torch, dojang
print("dojang", dojang.__version__, "torch", torch.__version__, torch.cuda.get_device_name(0), torch.cuda.device_count())' | tee -a "$out"

part "train on cuda" 60 "$python" -m dojang train digits-cnn --data digits --epochs 3 --device cuda -o "$work/train" --force
part "train on cpu" 60 "$python" -m dojang train digits-cnn --data digits --epochs 3 --device cpu -o "$work/cpu" --force
part "slim, tuned on cuda" 120 "$python" -m dojang slim "$work/train/model.safetensors" --data digits \
    --target-macs 0.7 --max-drop 20 --epochs 1 --device cuda -o "$work/slim" --force

cat >"$work/own.py" <<'PROGRAM'
"""A module on the device: slimmed at once and by its owner's loop, and its answers held against those on the CPU."""
import copy
import sys
import torch
from torch import nn
import dojang

torch.manual_seed(0)
block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
net = nn.Sequential(block(3, 64), block(64, 64), nn.MaxPool2d(2), block(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                    nn.Linear(128, 10))
x, y = torch.randn(256, 3, 32, 32), torch.randint(10, (256,))
with torch.no_grad():
    for _ in range(20):
        net(x[:64])
net.eval()
if sys.argv[1] == "once":
    here, there = (dojang.slim(copy.deepcopy(net).to(d), x, target_macs=0.5) for d in ("cpu", "cuda"))
    assert next(there.module.parameters()).is_cuda
    assert here.after.macs <= 0.5 * here.before.macs and there.after.macs <= 0.5 * there.before.macs
    print("outputs moved:", [r.result.candidates[0]["outputs_moved"] for r in (here, there)])
    on_cpu = copy.deepcopy(there.module).cpu()
    torch.testing.assert_close(there.module(x.cuda()).cpu(), on_cpu(x), rtol=1e-2, atol=1e-2)
else:
    net = net.cuda()
    wanted = net(x.cuda()).detach()

    def tune(module):
        optimiser = torch.optim.Adam(module.parameters(), 1e-3)
        for i in range(0, 256, 64):
            optimiser.zero_grad()
            (module(x[i : i + 64].cuda()) - wanted[i : i + 64]).square().mean().backward()
            optimiser.step()

    def evaluate(module):
        return -(module(x.cuda()) - wanted).square().mean(1).detach()

    torch.backends.cudnn.deterministic = True
    done = dojang.slim(net, x, tune=tune, evaluate=evaluate, target_macs=0.5)
    if done.module is not None:
        assert next(done.module.parameters()).is_cuda
        print(done)
PROGRAM
part "slim at once on cuda and cpu" 90 "$python" "$work/own.py" once
part "slim by one's own loop on cuda" 90 "$python" "$work/own.py" tuned
if [ "$("$python" -c 'import torch; print(torch.cuda.device_count())')" -gt 1 ]; then
    part "two processes, a device each" 60 "$python" -m torch.distributed.run --standalone --nproc-per-node=2 \
        -m dojang train digits-cnn --data digits --epochs 2 --device cuda -o "$work/two" --force
fi
exit $failed
