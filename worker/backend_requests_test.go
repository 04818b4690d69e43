// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/hook"
)

// changes are one request for every route that changes something, in an order in which each
// finds what it needs. A code: it is refused here, as a dry run too, for this worker has no
// keys, no certificates and no agents' links.
var changes = []struct{ method, path, target, body, code string }{
	{"PUT", "/v1/hosts/{id}", "/v1/hosts/h9", `{"partition":"z/p/c"}`, ""},
	{"POST", "/v1/hosts/{id}/maintenance", "/v1/hosts/h9/maintenance", `{"on":true,"reason":"fan"}`, ""},
	{"POST", "/v1/hosts/{id}/ha", "/v1/hosts/h9/ha", `{"on":false}`, ""},
	{"POST", "/v1/hosts/{id}/enabled", "/v1/hosts/h9/enabled", `{"on":false}`, ""},
	{"PUT", "/v1/hosts/{id}/devices/{device}/secret", "/v1/hosts/h1/devices/bmc/secret", `{"password":"canary"}`, v1.CodeRefused},
	{"DELETE", "/v1/hosts/{id}/devices/{device}/secret", "/v1/hosts/h1/devices/bmc/secret", "", v1.CodeNotFound},
	{"POST", "/v1/secrets/reseal", "/v1/secrets/reseal", `{}`, v1.CodeRefused},
	{"POST", "/v1/hosts/{id}/orders", "/v1/hosts/h1/orders", `{"verb":"soft","reason":"test"}`, ""},
	{"PATCH", "/v1/power/profile", "/v1/power/profile?scope=zone/z", `{"set":{"class":"slow"}}`, ""},
	{"PUT", "/v1/partitions/{path...}", "/v1/partitions/z/p", `{"why":"declared"}`, ""},
	{"POST", "/v1/partitions/{path...}:ha", "/v1/partitions/z/p:ha", `{"on":true}`, ""},
	{"POST", "/v1/partitions/{path...}:enabled", "/v1/partitions/z/p:enabled", `{"on":true}`, ""},
	{"PUT", "/v1/pools/{id}", "/v1/pools/nfs1", `{"id":"nfs1","type":"nfs","role":"primary"}`, ""},
	{"PUT", "/v1/pools/{id}", "/v1/pools/nfs2", `{"id":"nfs2","type":"nfs","role":"primary","hosts":["h1"]}`, ""},
	{"PUT", "/v1/volumes/{id}", "/v1/volumes/v1", `{"id":"v1","pool":"nfs1","path":"v1.raw","format":"raw","size":1048576}`, ""},
	{"PUT", "/v1/templates/{id}", "/v1/templates/t1", `{"id":"t1","format":"raw","size":1048576,"copies":[{"pool":"nfs1","path":"t1.raw"}]}`, ""},
	{"PUT", "/v1/volumes/{id}", "/v1/volumes/v4", `{"id":"v4","pool":"nfs1","path":"v4.raw","format":"raw","size":1048576}`, ""},
	{"PUT", "/v1/instances/{id}", "/v1/instances/i1?force=true", `{"id":"i1","host":"h1","memoryMiB":64,"cpus":1,"volumes":["v4"],"state":"stopped","ha":false}`, ""},
	{"POST", "/v1/commands", "/v1/commands", `{"kind":"copy","volume":"v1","pool":"nfs2","as":"v2","host":"h1"}`, ""},
	{"POST", "/v1/commands/{id}/cancel", "/v1/commands/COMMAND/cancel", `{"reason":"test"}`, ""},
	{"POST", "/v1/commands/{id}/reconcile", "/v1/commands/COMMAND/reconcile", `{}`, v1.CodeRefused},
	{"POST", "/v1/commands/{id}/resolve", "/v1/commands/COMMAND/resolve", `{"completed":false}`, v1.CodeRefused},
	{"DELETE", "/v1/instances/{id}", "/v1/instances/i1", "", ""},
	{"DELETE", "/v1/templates/{id}", "/v1/templates/t1", "", ""},
	{"DELETE", "/v1/volumes/{id}", "/v1/volumes/v3", "", v1.CodeNotFound},
	{"DELETE", "/v1/pools/{id}", "/v1/pools/nfs3", "", v1.CodeNotFound},
	{"POST", "/v1/workers/{id}/drain", "/v1/workers/w1/drain", `{"reason":"test","force":true}`, ""},
	{"POST", "/v1/workers/{id}/undrain", "/v1/workers/w1/undrain", `{}`, ""},
	{"POST", "/v1/hosts/{id}/rebalance", "/v1/hosts/h1/rebalance", "", v1.CodeUnavailable},
	{"POST", "/v1/budgets/{path...}:grant", "/v1/budgets/zone/z:grant", `{"reason":"test","extra":1,"for":"1h"}`, ""},
	{"POST", "/v1/budgets/{path...}:reset", "/v1/budgets/zone/z:reset", `{"reason":"test"}`, ""},
	{"PUT", "/v1/settings/{name}", "/v1/settings/budget.zone?scope=zone/z", `{"value":"7/1h"}`, ""},
	{"DELETE", "/v1/settings/{name}", "/v1/settings/budget.zone?scope=zone/z", "", ""},
	{"POST", "/v1/ha/disarm", "/v1/ha/disarm", `{"scope":"zone/z","for":"1h"}`, ""},
	{"POST", "/v1/ha/arm", "/v1/ha/arm", `{"scope":"zone/z"}`, ""},
	{"POST", "/v1/auth/tokens", "/v1/auth/tokens", `{"name":"ci","role":"viewer"}`, ""},
	{"DELETE", "/v1/auth/tokens/{id}", "/v1/auth/tokens/none", "", v1.CodeNotFound},
	{"POST", "/v1/join-tokens", "/v1/join-tokens", `{"host":"h1"}`, v1.CodeRefused},
	{"DELETE", "/v1/join-tokens/{id}", "/v1/join-tokens/none", "", v1.CodeNotFound},
	{"POST", "/v1/authorities", "/v1/authorities", `{}`, v1.CodeRefused},
	{"DELETE", "/v1/authorities/{id}", "/v1/authorities/none", "", v1.CodeNotFound},
	{"POST", "/v1/certificates/revoke", "/v1/certificates/revoke", `{"serials":["1f"],"reason":"test"}`, ""},
	{"DELETE", "/v1/hosts/{id}", "/v1/hosts/h9", "", ""},
	{"PUT", "/v1/hooks/{id}", "/v1/hooks/k1", `{"kind":"exec","target":"/bin/true"}`, ""},
	{"POST", "/v1/hooks/{id}/enabled", "/v1/hooks/k1/enabled", `{"on":false}`, ""},
	{"POST", "/v1/hooks/{id}/test", "/v1/hooks/k1/test", "", ""},
	{"DELETE", "/v1/hooks/{id}", "/v1/hooks/k1", "", ""},
	{"POST", "/v1/etcd/generation", "/v1/etcd/generation", `{"reason":"test"}`, ""},
}

// kept are the keys that nobody but operators, and who does what they ordered, writes, with
// their revisions. What owners write of hosts' states is left out, and of commands when they
// were last written: their hosts' owners go on with them. One that was cancelled cannot be
// cancelled again.
func (r *rig) kept(t *testing.T) map[string]int64 {
	t.Helper()
	kvs, _, err := r.client.List(t.Context(), leases.Root)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, kv := range kvs {
		own := strings.HasPrefix(kv.Key, leases.HostsPrefix) && !strings.HasSuffix(kv.Key, "/spec") || strings.HasPrefix(kv.Key, leases.PartitionsPrefix) && strings.HasSuffix(kv.Key, "/state")
		for _, p := range []string{leases.EventsPrefix, leases.SlotsPrefix, leases.WorkersPrefix, leases.EndsPrefix, leases.LinksPrefix, leases.IndicesPrefix, leases.OpsPrefix, leases.AreasPrefix, leases.CursorsPrefix} {
			own = own || strings.HasPrefix(kv.Key, p)
		}
		switch {
		case own, kv.Key == leases.ToldKey(): // that is slot 0's owner, whenever slots have come to rest
		case strings.HasPrefix(kv.Key, leases.CommandsPrefix):
			out[kv.Key] = 0
		default:
			out[kv.Key] = kv.ModRevision
		}
	}
	return out
}

// send asks a worker's API; headers are pairs.
func send(t *testing.T, w *Worker, method, target, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.apiAddr+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(v1.ActorHeader, "ann")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// TestEveryChangeCanBeTriedAndIsAudited: of every route that changes something a dry run
// says what the change itself will be answered, and leaves nothing in etcd; the change is in
// the audit log with who made it (libraries.md §4.5).
func TestEveryChangeCanBeTriedAndIsAudited(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", true)
	w, _ := r.worker(t, "w1")
	beat(t, w, "h1")
	eventually(t, "h1 is owned and looked at", func() bool {
		_, own := (*backend)(w).OwnerAPI("h1")
		rec, _ := read[ha.Record](t, r, leases.HostHAKey("h1"))
		return own && rec.State != ""
	})
	tried := map[string]bool{}
	command := "none"
	commands := func() []v1.Command {
		all, err := (*backend)(w).Commands(t.Context(), v1.CommandQuery{})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	for _, c := range changes {
		tried[c.method+" "+c.path] = true
		target := strings.ReplaceAll(c.target, "COMMAND", command)
		what := c.method + " " + target
		sep := map[bool]string{true: "&", false: "?"}[strings.Contains(target, "?")]
		before := r.kept(t)
		resp, dry := send(t, w, c.method, target+sep+"dryRun=true", c.body)
		if c.code == "" && resp.StatusCode != http.StatusOK || c.code != "" && !strings.Contains(dry, `"code":"`+c.code+`"`) {
			t.Errorf("%s, dry: %d %s, want %q", what, resp.StatusCode, dry, c.code)
		}
		if strings.Contains(dry, `"secret":"`) {
			t.Errorf("%s, dry: a secret was made: %s", what, dry)
		}
		if d := cmp.Diff(before, r.kept(t)); d != "" {
			t.Errorf("%s, dry: written (-before +after):\n%s", what, d)
		}
		resp, body := send(t, w, c.method, target, c.body)
		if c.code == "" && resp.StatusCode/100 != 2 || c.code != "" && !strings.Contains(body, `"code":"`+c.code+`"`) {
			t.Errorf("%s: %d %s, want %q", what, resp.StatusCode, body, c.code)
		}
		if c.code == "" {
			audits := 0
			for key := range r.kept(t) {
				if _, was := before[key]; !was && strings.HasPrefix(key, leases.AuditPrefix) {
					if a, _ := read[auditRecord](t, r, key); strings.HasPrefix(a.Who, "ann@") {
						audits++
					}
				}
			}
			if audits == 0 {
				t.Errorf("%s: %d, and the audit log does not know", what, resp.StatusCode)
			}
		}
		switch c.path {
		case "/v1/commands":
			eventually(t, "the command is seen", func() bool { return len(commands()) == 1 })
			command = commands()[0].ID
		case "/v1/commands/{id}/cancel":
			eventually(t, "the command has ended, nobody writes it any more", func() bool { return commands()[0].Ended })
		}
		// What comes next is answered from the mirror: it has to have seen this.
		rev, err := r.client.Revision(t.Context())
		if err == nil {
			err = w.mirror.WaitRevision(t.Context(), rev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range api.Routes {
		if row.Changes() && !tried[row.Method+" "+row.Path] {
			t.Errorf("%s %s: changes has no request for it", row.Method, row.Path)
		}
	}
}

// TestNamedRequestAtAnotherWorker: a request with an Idempotency-Key is carried out once,
// also when it is repeated at another worker; a condition that does not hold is answered
// with the ETag that is there; a watch from before what is kept, or from a revision that
// etcd has not come to, is refused.
func TestNamedRequestAtAnotherWorker(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	a, _ := r.worker(t, "w1")
	b, _ := r.worker(t, "w2")
	for _, w := range []*Worker{a, b} {
		eventually(t, "both know the host", func() bool { return w.view != nil && slices.Contains(hostsOf(w), "h1") })
	}
	const grant = `{"reason":"test","extra":3,"for":"1h"}`
	one, first := send(t, a, "POST", "/v1/budgets/zone/z:grant", grant, v1.KeyHeader, "k-1")
	two, again := send(t, b, "POST", "/v1/budgets/zone/z:grant", grant, v1.KeyHeader, "k-1")
	if one.StatusCode != 200 || two.StatusCode != 200 || first != again || two.Header.Get(v1.RepeatedHeader) == "" {
		t.Errorf("%d %s, then %d %s", one.StatusCode, first, two.StatusCode, again)
	}
	if kvs, _, err := r.client.List(t.Context(), leases.RequestsPrefix); err != nil || len(kvs) != 1 {
		t.Errorf("%d requests on record, %v", len(kvs), err)
	}

	have, _ := send(t, a, "GET", "/v1/hosts/h1", "")
	spec := fmt.Sprintf(`{"partition":%q}`, cluster)
	resp, body := send(t, a, "PUT", "/v1/hosts/h1", spec, "If-Match", `"1"`)
	if resp.StatusCode != http.StatusPreconditionFailed || resp.Header.Get("ETag") != have.Header.Get("ETag") {
		t.Errorf("%d %s with ETag %s, there is %s", resp.StatusCode, body, resp.Header.Get("ETag"), have.Header.Get("ETag"))
	}
	if resp, body := send(t, a, "PUT", "/v1/hosts/h1", spec, "If-Match", have.Header.Get("ETag")); resp.StatusCode != 200 {
		t.Errorf("with the ETag that is there: %d %s", resp.StatusCode, body)
	}
	if resp, body := send(t, a, "PUT", "/v1/settings/ha.policy", `{"value":"observe"}`, "If-None-Match", "*"); resp.StatusCode != 200 {
		t.Errorf("a setting that is not there: %d %s", resp.StatusCode, body)
	}
	if resp, body := send(t, a, "PUT", "/v1/settings/ha.policy", `{"value":"fence"}`, "If-None-Match", "*"); resp.StatusCode != http.StatusPreconditionFailed || resp.Header.Get("ETag") == "" {
		t.Errorf("a setting that is there: %d %s", resp.StatusCode, body)
	}

	r.put(t, leases.EventsCutKey(), eventsCut{V: 1, At: hook.Position{Revision: 2}})
	eventually(t, "the mirror knows what is kept", func() bool { return (*backend)(a).EventsKept(t.Context(), 1) != nil })
	for _, target := range []string{"/v1/events?watch=true&after=1", "/v1/events?after=1", "/v1/events?watch=true&after=99999999"} {
		if resp, body := send(t, a, "GET", target, ""); resp.StatusCode != http.StatusGone || !strings.Contains(body, `"code":"compacted"`) {
			t.Errorf("%s: %d %s", target, resp.StatusCode, body)
		}
	}
	if resp, body := send(t, a, "GET", "/v1/events?after=2", ""); resp.StatusCode != 200 {
		t.Errorf("from what is kept on: %d %s", resp.StatusCode, body)
	}
}

func hostsOf(w *Worker) (out []string) {
	for id := range w.view.hosts() {
		out = append(out, id)
	}
	return out
}
