#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -e
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers holdfast-worker.conf
elif ! getent passwd holdfast >/dev/null; then
	groupadd --system holdfast
	useradd --system --gid holdfast --home-dir /var/lib/holdfast-worker --shell /usr/sbin/nologin holdfast
fi
install -d -m 0750 -o root -g holdfast /etc/holdfast/tls /etc/holdfast/secrets
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# An upgrade restarts a running worker in place; nothing is started that did not run.
	if systemctl is-active --quiet holdfast-worker; then
		systemctl reload holdfast-worker || echo "holdfast-worker: the worker that runs is still the old one: journalctl -u holdfast-worker tells why; then systemctl reload holdfast-worker" >&2
	fi
fi
