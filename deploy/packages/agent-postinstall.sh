#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -e
# Where a worker is installed too, the directory is its group's.
[ -d /etc/holdfast/tls ] || install -d -m 0750 /etc/holdfast/tls
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# An upgrade restarts a running agent; nothing is started that did not run.
	systemctl try-restart holdfast-agent || echo "holdfast-agent: it did not start again: journalctl -u holdfast-agent tells why" >&2
fi
