# make help lists the targets. `make install` is the only list of installed files; debian/ and rpm/ call it.

PYTHON ?= /usr/bin/python3
DESTDIR ?=
PREFIX ?= /usr
SHARE = $(DESTDIR)$(PREFIX)/share
UNITDIR ?= $(PREFIX)/lib/systemd/system
UNITS = $(DESTDIR)$(UNITDIR)
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' k3sd/__init__.py)

.DEFAULT_GOAL := help
.PHONY: help run stop test bench bench-datastore robustness lint sample man install deb rpm clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

run: ## (root) install what is needed, start the server, deploy the sample application
	@sh scripts/run.sh

stop: ## (root) stop the server and its pods; the data stays
	@sh scripts/stop.sh

test: ## (root) install what the tests need and run all of them
	@sh scripts/test.sh $(TESTS)

bench: ## (root) measure every line of the budget; PEER_K3S=FILE, PEER_KUBE_APISERVER=FILE measure those beside it
	@$(PYTHON) -m bench $(if $(PEER_K3S),--peer-k3s $(PEER_K3S)) \
	  $(if $(PEER_KUBE_APISERVER),--peer-kube-apiserver $(PEER_KUBE_APISERVER))

bench-datastore: ## measure every store driver and the etcd face; PEER_KINE=FILE measures kine beside it
	@$(PYTHON) -m bench.datastore $(if $(PEER_KINE),--peer-kine $(PEER_KINE))

robustness: ## break the stores in every way for a while and check that nothing was lost
	@K3SD_ROBUSTNESS_SECONDS=20 $(PYTHON) -m pytest tests/robustness -q

lint: ## format and check the code
	@bin=$$(sh scripts/tools.sh) && $$bin/ruff format . && $$bin/ruff check . && $$bin/mypy --python-executable $(PYTHON)

sample: ## make etc/config.yaml from the table of options
	@$(PYTHON) scripts/build_docs.py sample etc/config.yaml

man: ## make the man pages in build/man
	@$(PYTHON) scripts/build_docs.py man build/man

install: man ## install into DESTDIR
	find k3sd -name '*.py' -exec install -D -m 0644 {} $(SHARE)/k3sd/{} \;
	find k3sd -type f ! -name '*.py' ! -name '*.pyc' -exec install -D -m 0644 {} $(SHARE)/k3sd/{} \;
	install -D -m 0755 scripts/k3sd $(DESTDIR)$(PREFIX)/bin/k3sd
	install -d $(UNITS)
	install -m 0644 systemd/*.service systemd/*.socket $(UNITS)
	install -D -m 0644 systemd/k3sd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/k3sd.conf
	install -D -m 0644 systemd/k3sd.modules-load $(DESTDIR)$(PREFIX)/lib/modules-load.d/k3sd.conf
	install -D -m 0644 systemd/k3sd.sysctl $(DESTDIR)$(PREFIX)/lib/sysctl.d/50-k3sd.conf
	install -D -m 0644 systemd/k3sd.networkmanager $(DESTDIR)$(PREFIX)/lib/NetworkManager/conf.d/50-k3sd.conf
	install -D -m 0644 build/man/k3sd.8 $(SHARE)/man/man8/k3sd.8
	install -D -m 0644 build/man/k3sd-server.8 $(SHARE)/man/man8/k3sd-server.8
	install -D -m 0644 build/man/k3sd-agent.8 $(SHARE)/man/man8/k3sd-agent.8
	install -D -m 0644 build/man/k3sd.yaml.5 $(SHARE)/man/man5/k3sd.yaml.5
	install -D -m 0644 etc/config.yaml $(SHARE)/doc/k3sd/examples/config.yaml
	install -D -m 0644 etc/default/k3sd-server $(SHARE)/doc/k3sd/examples/default/k3sd-server
	install -D -m 0644 etc/default/k3sd-agent $(SHARE)/doc/k3sd/examples/default/k3sd-agent
	install -D -m 0644 docs/examples/web/web.yaml $(SHARE)/doc/k3sd/examples/web/web.yaml
	install -D -m 0755 docs/examples/web/build_image.py $(SHARE)/doc/k3sd/examples/web/build_image.py
	install -D -m 0644 README.md $(SHARE)/doc/k3sd/README.md
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/vendor-completions
	$(PYTHON) -m k3sd completion bash > $(SHARE)/bash-completion/completions/k3sd
	$(PYTHON) -m k3sd completion zsh > $(SHARE)/zsh/vendor-completions/_k3sd

deb: ## build the Debian package into dist/
	@sh scripts/build-deb.sh

rpm: ## build the RPM into dist/
	@mkdir -p dist build/rpm && git archive --prefix=k3sd-$(VERSION)/ -o build/rpm/k3sd-$(VERSION).tar.gz HEAD
	rpmbuild -bb --define "_sourcedir $(CURDIR)/build/rpm" --define "_rpmdir $(CURDIR)/dist" --define "k3sd_version $(VERSION)" rpm/k3sd.spec

clean: ## remove what was built
	rm -rf build dist
