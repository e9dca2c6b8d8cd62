#!/usr/bin/env bash
# Set hpcnk up in .venv (once) and classify handwritten digits with a convolutional tangent kernel.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh

make_wheel_environment
say "running inputs/quickstart.yaml on 2 ranks, from scratch"
rm -rf runs/quickstart
"$(mpirun_of .venv)" -n 2 .venv/bin/hpcnk run inputs/quickstart.yaml

root=""
if [ "$(id -u)" = 0 ] && [ "$(mpirun_of .venv)" != "$PWD/.venv/bin/mpirun" ]; then
    root=" --allow-run-as-root"
fi
cat <<END

What to try next
  source .venv/bin/activate            put hpcnk on your PATH
  less runs/quickstart/report.md       what this run found
  hpcnk verify runs/quickstart         check the stored kernel
  cp inputs/quickstart.yaml my.yaml    change its output, its layers (README.md, "The deck"), then
  mpirun$root -n 2 hpcnk run my.yaml
  hpcnk plan inputs/cifar10-cv8.yaml --ranks 4     needs CIFAR-10: README.md, "Data"
END
