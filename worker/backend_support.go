// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

var _ api.Supporter = (*backend)(nil)

// Support implements api.Supporter.
func (b *backend) Support(ctx context.Context, goroutines bool) (v1.Support, error) {
	w := b.w()
	s := v1.Support{
		Worker: b.o.ID, Version: b.o.Version, Go: runtime.Version(), At: time.Now().UTC(), Started: w.started, Options: w.o.shown(),
		Health: v1.Health{Ready: true}, MirrorAge: b.mirror.Age().Round(time.Millisecond).String(), Claims: []string{},
	}
	if err := b.Ready(); err != nil {
		s.Health.Ready, s.Health.Reason = false, redactText(err.Error())
	}
	for _, x := range b.Health() {
		x.Text = redactText(x.Text)
		s.Health.Warnings = append(s.Health.Warnings, v1.Warning(x))
	}
	w.mu.Lock()
	if w.session != nil {
		s.Boot = w.session.Boot()
	}
	for _, n := range slices.Sorted(maps.Keys(w.claims)) {
		s.Claims = append(s.Claims, fmt.Sprintf("%04d %s", n, w.claims[n].Epoch))
	}
	w.mu.Unlock()
	for _, m := range b.client.Members(ctx) {
		s.Etcd = append(s.Etcd, v1.EtcdMember(m))
	}
	// The handler alone knows how metrics are written.
	page := &page{head: http.Header{}}
	w.metrics.Handler().ServeHTTP(page, (&http.Request{Method: http.MethodGet, Header: http.Header{}}).WithContext(ctx))
	s.Metrics = redactText(page.String())
	if goroutines {
		var dump bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&dump, 1); err != nil { // stacks alone: no arguments, which may point to secrets
			return s, fmt.Errorf("dump goroutines: %w", err)
		}
		s.Goroutines = dump.String()
	}
	return s, nil
}

// page keeps what a handler answers.
type page struct {
	bytes.Buffer
	head http.Header
}

// Header implements http.ResponseWriter.
func (p *page) Header() http.Header { return p.head }

// WriteHeader implements http.ResponseWriter; the registry's handler knows no other
// answer that has metrics in it.
func (p *page) WriteHeader(int) {}

// shown are the options as they may be shown: files by name.
func (o Options) shown() map[string]string {
	return map[string]string{
		"id": o.ID, "zone": o.Zone, "weight": strconv.Itoa(o.Weight), "etcd": redactText(strings.Join(o.Etcd, ",")), "leaseTTL": o.LeaseTTL.String(),
		"listenAPI": o.ListenAPI, "listenAgents": o.ListenAgents, "advertiseAPI": o.AdvertiseAPI, "advertiseAgents": o.AdvertiseAgents,
		"keyRing": o.KeyRing, "secretsDir": o.SecretsDir, "tlsCA": o.TLS.CA, "tlsCert": o.TLS.Cert, "tlsKey": o.TLS.Key,
		"insecureLoopback": strconv.FormatBool(o.InsecureLoopback), "restartGrace": o.RestartGrace.String(),
	}
}

// Records implements api.Supporter.
func (b *backend) Records(ctx context.Context, kind string) ([]v1.Record, error) {
	var kinds []string
	for _, d := range leases.Schema {
		first, _, _ := strings.Cut(d.Pattern, "/")
		kinds = append(kinds, first)
	}
	slices.Sort(kinds)
	if kinds = slices.Compact(kinds); !slices.Contains(kinds, kind) {
		return nil, v1.BadField("kind", "%q, allowed are %s", kind, strings.Join(kinds, ", "))
	}
	prefix := leases.Root + kind
	ctx, cancel := context.WithTimeout(ctx, 3*etcdTimeout)
	defer cancel()
	kvs, _, err := b.client.List(ctx, prefix)
	if err != nil {
		return nil, etcdProblem("records", err)
	}
	var out []v1.Record
	for _, kv := range kvs {
		if rest := kv.Key[len(prefix):]; rest == "" || rest[0] == '/' {
			out = append(out, v1.Record{Key: kv.Key, Revision: kv.ModRevision, Value: redacted(kv.Value)})
		}
	}
	return out, nil
}
