#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Configuration, certificates and secrets were made by people and stay, even at a purge (deb).
# The agent's own state goes then: its journal, what it remembers of owners, and the key that
# it made when it joined. A removal, and rpm, leave it.
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
if [ "$1" = purge ]; then
	if [ "$DPKG_MAINTSCRIPT_PACKAGE" = holdfast-agent ]; then rm -rf /var/lib/holdfast-agent; fi
	# Empty folders are nobody's when the last of the two is purged.
	if [ ! -e /usr/bin/holdfast-worker ] && [ ! -e /usr/bin/holdfast-agent ]; then
		for d in /etc/holdfast/tls /etc/holdfast/secrets /etc/holdfast; do
			if [ -d "$d" ]; then rmdir --ignore-fail-on-non-empty "$d"; fi
		done
	fi
fi
