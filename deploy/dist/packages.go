// SPDX-License-Identifier: Apache-2.0

package main

// file is one file of a package: where it comes from, where it goes, with which mode.
type file struct {
	src, dst string
	mode     int
}

// pack is one package.
type pack struct {
	name, description string
	files             []file
	depends           []string // Debian and RPM agree on these names
	recommends        []string // of deb only
	scripts           map[string]string
}

const (
	unitDir = "/usr/lib/systemd/system/"
	docDir  = "/usr/share/doc/"
)

// packs is all that packages hold.
var packs = []pack{
	{
		name: "holdfast-worker", description: "Holdfast management worker\nWatches hypervisors through their agents, proves dead ones off before anything\nrestarts elsewhere, and switches them on again. Needs etcd and a way to the BMCs.",
		files: []file{
			{"bin/holdfast-worker", "/usr/bin/holdfast-worker", 0o755},
			{"deploy/systemd/holdfast-worker.service", unitDir + "holdfast-worker.service", 0o644},
			{"deploy/systemd/holdfast-worker.sysusers", "/usr/lib/sysusers.d/holdfast-worker.conf", 0o644},
			{"deploy/systemd/holdfast-worker.tmpfiles", "/usr/lib/tmpfiles.d/holdfast-worker.conf", 0o644},
			{"deploy/packages/worker.yaml", docDir + "holdfast-worker/worker.yaml", 0o644},
			{"deploy/packages/etcd.yaml", docDir + "holdfast-worker/etcd.yaml", 0o644},
			{"deploy/packages/copyright", docDir + "holdfast-worker/copyright", 0o644},
		},
		depends: []string{"passwd"}, recommends: []string{"ca-certificates", "fence-agents"},
		scripts: map[string]string{"postinstall": "deploy/packages/worker-postinstall.sh", "preremove": "deploy/packages/worker-preremove.sh", "postremove": "deploy/packages/postremove.sh"},
	},
	{
		name: "holdfast-agent", description: "Holdfast host agent\nTells workers how its hypervisor is, and what it sees of its neighbours.",
		files: []file{
			{agentFile, "/usr/bin/holdfast-agent", 0o755},
			{"deploy/systemd/holdfast-agent.service", unitDir + "holdfast-agent.service", 0o644},
			{"deploy/packages/agent.yaml", docDir + "holdfast-agent/agent.yaml", 0o644},
			{"deploy/packages/copyright", docDir + "holdfast-agent/copyright", 0o644},
		},
		recommends: []string{"libvirt0"},
		scripts:    map[string]string{"postinstall": "deploy/packages/agent-postinstall.sh", "preremove": "deploy/packages/agent-preremove.sh", "postremove": "deploy/packages/postremove.sh"},
	},
	{
		name: "holdfast", description: "Holdfast command line\nShows and orders what workers do, and runs a simulated fleet to play with.",
		files: []file{
			{"bin/holdfast", "/usr/bin/holdfast", 0o755},
			{"dist/completion/holdfast.bash", "/usr/share/bash-completion/completions/holdfast", 0o644},
			{"dist/completion/_holdfast", "/usr/share/zsh/vendor-completions/_holdfast", 0o644},
			{"deploy/packages/copyright", docDir + "holdfast/copyright", 0o644},
		},
	},
}
