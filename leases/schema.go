// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"regexp"
	"strings"
)

// KeyDoc is one row of the key schema.
type KeyDoc struct {
	Pattern string // below Root; <…> are placeholders
	Lease   bool   // bound to a worker's lease; written by Session only
	Fence   string // what a writer must compare
	Content string
	Example string
}

// Schema is every key that may exist (leases.md §1). docs/keys.md is generated from it
// and Commit refuses a key that no row matches. Values are JSON objects with "v": 1.
var Schema = []KeyDoc{
	{"config/slots", false, "created once", "number of slots, never changed by a running fleet", `{"v":1,"slots":1024}`},
	{"config/generation", false, "created once; raised after a restore (docs/etcd-restore.md), own mod_revision", "generation of the etcd data, first part of every epoch", `{"v":1,"generation":1}`},
	{"config/told", false, "slot 0, own mod_revision", "the workers, with their boots, and the owners of slots that the event log has told of; what differs is told next", `{"v":1,"workers":{"w-1":"b-7f3a"},"slots":{"w-1":"//8="}}`},
	{"workers/<worker>", true, "own lease", "addresses, zone, weight, boot, state (starting, ready, restarting), settings of interest", `{"v":1,"worker":"w-1","boot":"b-7f3a","zone":"z1","weight":1,"state":"ready"}`},
	{"slots/<slot>", true, "own mod_revision", "owner; the epoch is (generation, mod_revision of this key)", `{"v":1,"worker":"w-1","boot":"b-7f3a","since":"2026-11-21T14:28:00Z"}`},
	{"ends/<worker>/<boot>", false, "created once", "how a worker ended (released, reaped, expired, evicted), at, last renewal; deleted after an hour", `{"v":1,"how":"reaped","at":"2026-11-21T14:28:00Z"}`},
	{"drains/<worker>", false, "own mod_revision", "operators want the worker to own nothing, also after its restarts, until the key is gone: by, at, reason", `{"v":1,"worker":"w-1","by":"ops@10.0.0.9","at":"2026-11-21T14:28:00Z","reason":"new kernel"}`},
	{"partitions/<path>/spec", false, "own mod_revision", "enabled, HA enabled, labels", `{"v":1,"enabled":true,"ha":true}`},
	{"partitions/<path>/state", false, "slot of the path", "partition machine's state, since when and why", `{"v":1,"state":"ACTIVE","reason":"4 of 4 hosts eligible"}`},
	{"budgets/host/<host>", false, "own mod_revision", "times of power-downs; touched only when arming", `{"v":1,"times":[]}`},
	{"budgets/cluster/<zone>/<pod>/<cluster>", false, "own mod_revision", "times of power-downs; touched only when arming", `{"v":1,"times":["2026-11-21T15:35:10Z"]}`},
	{"budgets/pod/<zone>/<pod>", false, "own mod_revision", "times of power-downs; touched only when arming", `{"v":1,"times":[]}`},
	{"budgets/zone/<zone>", false, "own mod_revision", "times of power-downs; touched only when arming; latched: stopped until a human resets or grants", `{"v":1,"times":[],"latched":true}`},
	{"areas/<area>", false, "slot of the area's name (of a zone, pod or cluster: of its path), own mod_revision", "last storm of a rack, switch, PDU, pool, cluster, pod or zone: began, ended, why, members, paged", `{"v":1,"area":"rack/z1/7","open":true,"why":"40 hosts under it fell within 1m30s"}`},
	{"hosts/<host>/spec", false, "own mod_revision", "partition, provider, labels (rack, switch, PDU), power devices, agent identity, list index", `{"v":1,"partition":"z1/p1/c1","provider":"kvm"}`},
	{"hosts/<host>/ha", false, "slot of the host, own mod_revision", "host machine's record", `{"v":1,"state":"available"}`},
	{"hosts/<host>/power", false, "slot of the host, own mod_revision", "power machine's record", `{"v":1,"state":"on"}`},
	{"incidents/<host>/<id>", false, "slot of the host", "evidence ledger, guard answers, actions, proof, outcome; closed ones are kept for 90 days, the last 100 of a host", `{"v":1,"state":"suspect"}`},
	{"steps/<host>/<id>/<nn>", false, "slot of the host", "one decision of an incident and what it was made of, for replay; at most 80 of an incident, the last 8 of a host and 1,000 of the fleet, 90 days", `{"v":1,"n":0,"event":{"kind":"health","verdict":"fail"},"change":{"state":"SUSPECT"}}`},
	{"ops/<host>", false, "slot of the host, own mod_revision", "open power intent: verb, id, epoch, worker, deadline, step", `{"v":1,"verb":"off","epoch":{"generation":1,"revision":1841}}`},
	{"links/<host>", false, "slot of the host, or own mod_revision", "worker and boot that carry the link, only where that is not the owner", `{"v":1,"worker":"w-2","boot":"b-91c0"}`},
	{"indices/<index>", false, "slot of `indices`", "host that was given this index when it was enrolled, which rotates its list of workers; free again when the host is gone", `{"v":1,"host":"h0042"}`},
	{"pools/<pool>", false, "own mod_revision", "storage pool: type, role, hosts that have it", `{"v":1,"id":"nfs1","type":"nfs","role":"primary"}`},
	{"volumes/<volume>", false, "own mod_revision; by commands also slot of the command's host", "volume: where it is, format, size, its instance; the open command's id", `{"v":1,"id":"v7","pool":"nfs1","path":"v7.qcow2","format":"qcow2","size":1073741824,"instance":"i3","state":"ready"}`},
	{"templates/<template>", false, "own mod_revision; by commands also slot of the command's host", "template: format, size, where its copies are; the open command's id", `{"v":1,"id":"t1","format":"qcow2","size":1073741824,"copies":[{"pool":"sec1","path":"t1.qcow2"}]}`},
	{"instances/<instance>", false, "own mod_revision; by commands also slot of the command's host", "instance: host that holds it with its generation, HA wanted, volumes; the open command's id", `{"v":1,"id":"i3","host":"h0042","ha":true,"volumes":["v7"],"state":"running","generation":3}`},
	{"commands/<host>/<id>", false, "slot of the source host, own mod_revision", "command record: spec, state, evidence, outcome, what is left to tidy; kept for command.keep after its end", `{"v":1,"id":"0198…","kind":"migrate-volume","host":"h0042","state":"PROCESSING"}`},
	{"journal/<host>/<id>/<nn>", false, "slot of the host", "step authored by the agent, numbered by it; removed when both sides have the end", `{"v":1,"seq":2,"state":"PROCESSING","what":"copying nfs1:v7.qcow2 to …"}`},
	{"events/<uuid>", false, "in the transaction that it reports", "event, ordered by mod_revision; kept by age and count", `{"v":1,"type":"host.state","host":"h0042"}`},
	{"events-cut", false, "slot 0, in the transaction that drops events", "last event that was dropped for its age or the log's length: who was not told of it by then is told of a gap", `{"v":1,"at":{"revision":1841,"id":"0198…"}}`},
	{"hooks/<hook>", false, "own mod_revision", "who is told of which events: webhook or program, filters; URL and signing key sealed with this key as additional data (docs/hooks.md)", `{"v":1,"kind":"webhook","target":"https://hooks.example.com","severities":["page"],"sealed":"holdfast:enc:aesgcm:v1:k1:…"}`},
	{"cursors/<hook>", false, "slot of hook/<hook>, own mod_revision", "event that the hook was told of last, failures, gaps; written every few seconds at most", `{"v":1,"at":{"revision":1841,"id":"0198…"},"delivered":"2026-11-21T14:28:00Z"}`},
	{"audit/<uuid>", false, "in the transaction that it reports", "audited mutation, same id as its event: who, what, reason, and before and after of each field that changed; kept by age and count", `{"v":1,"who":"operator/ann@10.0.0.9","what":"host.maintenance","changes":[{"key":"hosts/h0042/spec","before":{},"after":{"maintenance":true}}]}`},
	{"requests/<id>", false, "created once, then by the worker that created it", "request of the operator API with an Idempotency-Key: digest of it, who, when, what was answered; no status while it is carried out; deleted after a day", `{"v":1,"print":"9f86…","by":"operator/ann@10.0.0.9","at":"2026-11-21T14:28:00Z","status":200,"answer":{"id":"…"}}`},
	{"settings/<scope>/<name>", false, "own mod_revision", "value, by, at, reason", `{"v":1,"value":"10s","by":"ops"}`},
	{"secrets/<host>/<device>", false, "own mod_revision", "credentials of a power device, sealed with this key as additional data (docs/secrets.md); by, at, tested", `{"v":1,"sealed":"holdfast:enc:aesgcm:v1:k1:…","by":"ann@10.0.0.9","at":"2026-11-21T14:28:00Z","tested":true}`},
	{"profiles/<scope>", false, "own mod_revision", "power profile of a scope: fields that hosts below inherit", `{"v":1,"fields":{"device.bmc.driver":"redfish","class":"slow"},"by":"ops"}`},
	{"tokens/<id>", false, "own mod_revision", "operator's bearer token: its SHA-256, name, role, end", `{"v":1,"hash":"9f86…","name":"ci","role":"viewer","by":"operator/ann@10.0.0.9","at":"2026-11-21T14:28:00Z"}`},
	{"revoked/<serial>", false, "created once", "revoked certificate, its serial in hexadecimal; deleted when it would have ended", `{"v":1,"identity":"host/h-17","reason":"host retired","by":"operator/ann@10.0.0.9","at":"2026-11-21T14:28:00Z"}`},
	{"authorities/<id>", false, "own mod_revision", "one of the fleet's own authorities: certificate, from when it signs; its private key sealed with this key as additional data", `{"v":1,"cert":"MIIB…","sealed":"holdfast:enc:aesgcm:v1:k1:…","signs":"2026-11-21T14:29:00Z"}`},
	{"joins/<id>", false, "own mod_revision", "join token of one host: its SHA-256, end, the key that has used it; deleted a day after its end", `{"v":1,"hash":"9f86…","host":"h-17","expires":"2026-11-21T15:28:00Z"}`},
	{"certs/<serial>", false, "created once", "certificate that the fleet has issued; deleted when it has ended", `{"v":1,"identity":"host/h-17","authority":"a1","notAfter":"2026-11-22T14:28:00Z"}`},
}

// placeholders that are not plain ids.
var placeholders = map[string]string{
	"<path>":  idPattern + `(?:/` + idPattern + `){0,2}`,
	"<scope>": `global|zone/` + idPattern + `|pod/` + idPattern + `/` + idPattern + `|cluster(?:/` + idPattern + `){3}|host/` + idPattern,
	"<area>":  `[a-z][a-z0-9-]{0,62}(?:/` + idPattern + `){1,3}`,
	"<slot>":  `[0-9]{4}`,
	"<nn>":    `[0-9]{2,}`,
	"<id>":    idPattern + `(?:[.][A-Za-z0-9]{1,20}){0,2}`, // incidents are named after their host, time and number
	"<index>": `0|[1-9][0-9]{0,8}`,
}

var schemaRegexps = func() []*regexp.Regexp {
	hole := regexp.MustCompile(`<[a-z]+>`)
	var out []*regexp.Regexp
	for _, d := range Schema {
		p := hole.ReplaceAllStringFunc(d.Pattern, func(h string) string {
			if re, ok := placeholders[h]; ok {
				return "(" + re + ")"
			}
			return "(" + idPattern + ")"
		})
		out = append(out, regexp.MustCompile(`^`+Root+p+`$`))
	}
	return out
}()

// Match finds the row of a key and the values of its placeholders, in order.
func Match(key string) (doc KeyDoc, args []string, ok bool) {
	for i, re := range schemaRegexps {
		if m := re.FindStringSubmatch(key); m != nil {
			return Schema[i], m[1:], true
		}
	}
	return KeyDoc{}, nil, false
}

// SchemaMarkdown renders docs/keys.md.
func SchemaMarkdown() string {
	var b strings.Builder
	b.WriteString("# Keys in etcd\n\n" +
		"Generated from `leases/schema.go`; do not edit.\n\n" +
		"All keys live below `" + Root + "`. Values are JSON objects with `\"v\": 1`. *Lease*: the key vanishes with its\n" +
		"worker's lease. *Fence*: what a writer must compare in the transaction that writes.\n\n" +
		"- `etcdctl get --prefix " + SlotsPrefix + "` is the ownership map.\n" +
		"- `etcdctl get --prefix " + HostPrefix("h0042") + "` is one host's story.\n\n" +
		"Ids are 1 to 63 letters, digits, `.`, `_` or `-`, starting with a letter or digit; an\n" +
		"incident's is its host's with time and number. `<path>` is `zone`, `zone/pod` or\n" +
		"`zone/pod/cluster`; `<scope>` is `global`, `zone/…`, `pod/…`, `cluster/…` (each with the path) or `host/<host>`;\n" +
		"`<area>` is a kind (`rack`, `switch`, `pdu` and other labels, `pool`, `cluster`, `pod`, `zone`) and a name;\n" +
		"`<slot>` has four digits, `<index>` is a number without leading zeros.\n\n" +
		"| key | lease | fence | content | example |\n|---|---|---|---|---|\n")
	for _, d := range Schema {
		lease := "-"
		if d.Lease {
			lease = "yes"
		}
		b.WriteString("| `" + d.Pattern + "` | " + lease + " | " + d.Fence + " | " + d.Content + " | `" + d.Example + "` |\n")
	}
	return b.String()
}
