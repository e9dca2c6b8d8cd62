#!/usr/bin/env bash
# Set hpcnk up in .venv (once) and classify handwritten digits with a convolutional tangent kernel.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh

make_wheel_environment
rm -rf runs/quickstart
say "running inputs/quickstart.yaml on 2 ranks"
"$(mpirun_of .venv)" -n 2 .venv/bin/hpcnk run inputs/quickstart.yaml

cat <<'END'

What to try next
  source .venv/bin/activate            put hpcnk on your PATH
  less runs/quickstart/report.md       what this run found
  hpcnk verify runs/quickstart         check the stored kernel
  hpcnk plan inputs/cifar10-cv8.yaml --ranks 4     (needs CIFAR-10: see README.md, "Data")
  edit a copy of inputs/quickstart.yaml and run it: mpirun -n 2 hpcnk run my.yaml
END
